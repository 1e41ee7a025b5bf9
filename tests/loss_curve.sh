#!/bin/sh
# loss_curve.sh ROOT: tools/loss_curve draws both kinds of logs, and says what is wrong with others. Skipped without gnuplot.
set -eu
tool=$1/tools/loss_curve
command -v gnuplot >/dev/null || exit 77
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
printf 'step,epoch,loss,validation,rmse,seconds\n1,1,3.5,,,0.1\n2,1,2.5,2.75,1.6,0.2\n3,1,1.5,,,0.3\n4,2,0.9,1.2,1.1,0.4\n' >run.csv
cat >run.jsonl <<END
{"step":1,"epoch":1,"loss":3.5,"seconds":0.1}
{"step":2,"epoch":1,"loss":2.5,"validation":2.75,"rmse":1.6,"seconds":0.2}
{"step":3,"epoch":1,"loss":1.5,"seconds":0.3}
{"step":4,"epoch":2,"loss":0.9,"validation":1.2,"rmse":1.1,"seconds":0.4}
END
"$tool" run.csv curve.png | grep -q 'picture: curve.png'
"$tool" run.jsonl
[ "$(head -c 4 curve.png | tail -c 3)" = PNG ] || { echo "curve.png is no picture" && exit 1; }
cmp curve.png run.jsonl.png # the same numbers
echo step,loss >empty.csv
! "$tool" empty.csv 2>message || exit 1
grep -q 'empty.csv: no line with a loss' message
! "$tool" nowhere.csv 2>message || exit 1
grep -q 'nowhere.csv: cannot be read' message
