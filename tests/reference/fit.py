"""Prints the rates of the Lotka-Volterra equations that SciPy fits to the numbers of
tests/nn/test_fit.c, their standard errors and the sum of squares."""
import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

t = np.arange(11.0)


def solve(k):
    return solve_ivp(lambda _, y: [k[0] * y[0] - k[1] * y[0] * y[1], k[2] * y[0] * y[1] - k[3] * y[1]],
                     (0, 10), [1.5, 1.0], method="DOP853", rtol=1e-12, atol=1e-13, t_eval=t).y.T


observed = solve([1.0, 0.5, 0.4, 1.2]) * (1 + 0.1 * np.sin(7 * np.arange(22))).reshape(11, 2)
fit = least_squares(lambda k: (solve(k) - observed).ravel(), [0.9, 0.6, 0.5, 1.0], method="lm",
                    xtol=1e-14, ftol=1e-14, gtol=1e-14, diff_step=1e-6)
covariance = np.linalg.inv(fit.jac.T @ fit.jac) * 2 * fit.cost / 18
print(fit.x.tolist(), np.sqrt(np.diag(covariance)).tolist(), 2 * fit.cost)
