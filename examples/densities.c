#include "densities.h"
#include <math.h>
#include <string.h>

static const double pi = 3.14159265358979323846;
static int below(ad_rng *rng, int n) { return (int)(ad_rng_uniform(rng) * n) % n; }

/* Eight Gaussians of deviation 0.5 on a circle of radius 4, all divided by 1.414. */
static void draw_8gaussians(ad_rng *rng, double *x, double *y)
{
    double a = below(rng, 8) * pi / 4;
    *x = (4 * cos(a) + 0.5 * ad_rng_normal(rng)) / 1.414;
    *y = (4 * sin(a) + 0.5 * ad_rng_normal(rng)) / 1.414;
}

static double log_density_8gaussians(double x, double y)
{
    double s = 0.5 / 1.414, r = 4 / 1.414, sum = 0;
    for (int k = 0; k < 8; k++)
        sum +=
            exp(-(pow(x - r * cos(k * pi / 4), 2) + pow(y - r * sin(k * pi / 4), 2)) / (2 * s * s));
    return log(sum / 8 / (2 * pi * s * s));
}

/* Two arms of a spiral, a turn and a half each. */
static void draw_2spirals(ad_rng *rng, double *x, double *y)
{
    double a = sqrt(ad_rng_uniform(rng)) * 3 * pi, side = below(rng, 2) ? 1 : -1;
    *x = side * (-cos(a) * a + ad_rng_uniform(rng) * 0.5) / 3 + 0.1 * ad_rng_normal(rng);
    *y = side * (sin(a) * a + ad_rng_uniform(rng) * 0.5) / 3 + 0.1 * ad_rng_normal(rng);
}

static void draw_checkerboard(ad_rng *rng, double *x, double *y)
{
    double u = ad_rng_uniform(rng) * 4 - 2, v = ad_rng_uniform(rng) - below(rng, 2) * 2;
    *x = 2 * u;
    *y = 2 * (v + (double)((int)floor(u) & 1));
}

static double log_density_checkerboard(double x, double y)
{
    if (fabs(x) >= 4 || fabs(y) >= 4) return -INFINITY;
    return ((int)floor(x / 2) + (int)floor(y / 2)) & 1 ? -INFINITY : -log(32);
}

/* Five Gaussians, long in the radius, bent the more the farther out. */
static void draw_pinwheel(ad_rng *rng, double *x, double *y)
{
    double r = 1 + 0.3 * ad_rng_normal(rng), s = 0.1 * ad_rng_normal(rng),
           a = below(rng, 5) * 2 * pi / 5 + 0.25 * exp(r);
    *x = 2 * (r * cos(a) + s * sin(a));
    *y = 2 * (s * cos(a) - r * sin(a));
}

static void draw_circle(ad_rng *rng, double radius, double noise, double *x, double *y)
{
    double a = 2 * pi * ad_rng_uniform(rng);
    *x = radius * cos(a) + noise * ad_rng_normal(rng);
    *y = radius * sin(a) + noise * ad_rng_normal(rng);
}

static void draw_rings(ad_rng *rng, double *x, double *y)
{
    draw_circle(rng, 0.75 * (1 + below(rng, 4)), 0.08, x, y);
}
static void draw_circles(ad_rng *rng, double *x, double *y)
{
    draw_circle(rng, below(rng, 2) ? 3 : 1.5, 0.24, x, y);
}

/* Two interleaving half circles. */
static void draw_moons(ad_rng *rng, double *x, double *y)
{
    double a = pi * ad_rng_uniform(rng);
    int lower = below(rng, 2);
    double u = lower ? 1 - cos(a) : cos(a), v = lower ? 0.5 - sin(a) : sin(a);
    *x = 2 * (u + 0.1 * ad_rng_normal(rng)) - 1;
    *y = 2 * (v + 0.1 * ad_rng_normal(rng)) - 0.2;
}

static void draw_swissroll(ad_rng *rng, double *x, double *y)
{
    double a = 1.5 * pi * (1 + 2 * ad_rng_uniform(rng));
    *x = (a * cos(a) + ad_rng_normal(rng)) / 5;
    *y = (a * sin(a) + ad_rng_normal(rng)) / 5;
}

const density densities[] = { { "8gaussians", draw_8gaussians, 4, log_density_8gaussians },
                              { "2spirals", draw_2spirals, 4, NULL },
                              { "checkerboard", draw_checkerboard, 5, log_density_checkerboard },
                              { "pinwheel", draw_pinwheel, 4, NULL },
                              { "rings", draw_rings, 4, NULL },
                              { "moons", draw_moons, 4, NULL },
                              { "circles", draw_circles, 4, NULL },
                              { "swissroll", draw_swissroll, 4, NULL },
                              { 0 } };

const density *density_find(const char *name)
{
    for (const density *d = densities; d->name; d++)
        if (!strcmp(d->name, name)) return d;
    return NULL;
}

double mean_distance(int64_t n, const double *x, const double *y)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double part = 0;
        for (int64_t j = 0; j < n; j++) {
            double u = x[2 * i] - y[2 * j], v = x[2 * i + 1] - y[2 * j + 1];
            part += sqrt(u * u + v * v);
        }
        sum += part;
    }
    return sum / (double)n / (double)n;
}

double energy_distance(int64_t n, const double *x, const double *y)
{
    return 2 * mean_distance(n, x, y) - mean_distance(n, x, x) - mean_distance(n, y, y);
}
