/* AD_ASSERT. Built twice: with NDEBUG, where it must do nothing, and without, where it must abort.
 */
#include "autodiff/extension.h"
#include "tests/support.h"
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int evaluations;
static bool holds(bool answer)
{
    evaluations++;
    return answer;
}

/* Runs an assertion in a process of its own: what it writes to stderr, and how it ends. */
static int assert_apart(bool answer, char *text, size_t size)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        AD_ASSERT(holds(answer));
        _exit(evaluations);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], text, size - 1);
    text[n > 0 ? n : 0] = 0;
    close(ends[0]);
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return status;
}

START_TEST(what_does_not_hold)
{
    char text[512];
    int status = assert_apart(false, text, sizeof text);
#ifdef NDEBUG
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    ck_assert_str_eq(text, "");
#else
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "status %d", status);
    ck_assert_msg(strstr(text, "test_assert.c:") && strstr(text, "holds(answer)"), "%s", text);
#endif
}
END_TEST

START_TEST(what_holds)
{
    char text[512];
    int status = assert_apart(true, text, sizeof text);
    int evaluated = 1;
#ifdef NDEBUG
    evaluated = 0;
#endif
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == evaluated, "status %d", status);
    ck_assert_str_eq(text, "");
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("assert", "assert");
    tcase_add_test(tests, what_does_not_hold);
    tcase_add_test(tests, what_holds);
    return suite_run();
}
