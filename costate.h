/* costate: neural ordinary differential equations in C. All public headers. */
#ifndef COSTATE_H
#define COSTATE_H
#include "autodiff/autodiff.h"
#include "nn/nn.h"
#include "ode/ode.h"
#include "ode/diffusion.h"
#include "ode/sde.h"
#endif
