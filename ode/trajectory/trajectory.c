/* Trajectories: what is stored of the accepted steps of a solve. */
#include "ode/trajectory/trajectory.h"
#include <stdlib.h>
#include <string.h>

static size_t slot_bytes(const ode_trajectory *tr)
{
    return (size_t)(tr->rows * tr->system->width) * ode_bytes(tr->system->dtype);
}

/* Stages of a step whose residuals lie in its slot: not the one after the last. */
static int kept_stages(const ode_trajectory *tr)
{
    return ode_method_times(tr->method, false, tr->policy.dense) - tr->policy.dense;
}

/* Says how many steps have residuals; the bytes of a slot of them. */
static size_t plan_residuals(ode_trajectory *tr)
{
    const ode_residuals *residuals = tr->policy.residuals;
    tr->kept_limit = 0;
    if (!residuals) return 0;
    size_t first = ode_residuals_bytes(tr->system, residuals, tr->rows, true);
    tr->kept_stage = ode_residuals_bytes(tr->system, residuals, tr->rows, false);
    size_t slot = first + (size_t)(kept_stages(tr) - 1) * tr->kept_stage + tr->policy.numbers;
    if (slot == 0) slot = 1; /* the states are all that is needed */
    tr->kept_limit = tr->policy.residuals_bytes / (int64_t)slot;
    return slot;
}

/* ---- bytes, before it is filled ---- */

static ode_trajectory with_policy(const ode_system *system, const ode_method *method,
                                  const ode_trajectory_policy *policy, int64_t rows)
{
    return (ode_trajectory){ .system = system, .method = method, .policy = *policy, .rows = rows };
}

int64_t ode_trajectory_keeps(const ode_system *system, const ode_method *method,
                             const ode_trajectory_policy *policy, int64_t rows)
{
    ode_trajectory tr = with_policy(system, method, policy, rows);
    plan_residuals(&tr);
    return tr.kept_limit;
}

/* States that are stored at n + 1 boundaries; of those that are not, two are in memory. */
static int64_t stored_states(const ode_trajectory *tr, int64_t n)
{
    const ode_trajectory_policy *p = &tr->policy;
    int64_t most = p->states ? n + 1 : 2;
    if (p->states_bytes) {
        const int64_t fit = p->states_bytes / (int64_t)(slot_bytes(tr) + p->carried) + 1;
        if (fit < most) most = fit;
    }
    return most < 2 ? 2 : most;
}

int64_t ode_trajectory_needs(const ode_system *system, const ode_method *method,
                             const ode_trajectory_policy *policy, int64_t rows, int64_t n,
                             int64_t *each)
{
    ode_trajectory tr = with_policy(system, method, policy, rows);
    ad_opaque_account a = { 0 };
    const size_t slot = slot_bytes(&tr), kept = plan_residuals(&tr);
    const int64_t states = stored_states(&tr, n);
    /* the stage after the last one of a step is the first of the next */
    const int64_t kept_steps = n == 0 || policy->dense ? n + 1 : n;
    const int64_t kept_slots = kept_steps < tr.kept_limit ? kept_steps : tr.kept_limit;
    const bool bounds = policy->states || policy->boundaries;
    *each = bounds ? (int64_t)sizeof(ode_boundary) : 0;
    if (policy->states) *each += (int64_t)(ode_aligned(slot) + ode_aligned(policy->carried));
    if (tr.kept_limit) *each += (int64_t)ode_aligned(kept);
    if (n > INT64_MAX / 8 / (*each + 1)) return -1;
    ode_account(&a, ode_pile_bytes(slot, states), 1);
    if (policy->carried && policy->states)
        ode_account(&a, ode_pile_bytes(policy->carried, states - 1), 1);
    if (kept_slots > 0) ode_account(&a, ode_pile_bytes(kept, kept_slots), 1);
    ode_account_buffer(&a, (size_t)((bounds ? n : 1) + 1) * sizeof(ode_boundary));
    if (policy->magnitudes) ode_account_buffer(&a, slot);
    return a.bytes;
}

bool ode_trajectory_fits(const ode_trajectory *tr, int64_t n)
{
    int64_t each;
    if (!tr->policy.most_bytes) return true;
    const int64_t needs =
        ode_trajectory_needs(tr->system, tr->method, &tr->policy, tr->rows, n, &each);
    return needs >= 0 && needs <= tr->policy.most_bytes;
}

/* ---- filling it ---- */

void *ode_trajectory_begin(ode_trajectory *tr, const ode_system *system, const ode_method *method,
                           const ode_trajectory_policy *policy, int64_t rows)
{
    tr->system = system;
    tr->method = method;
    tr->policy = *policy;
    tr->rows = rows;
    tr->stores = policy->states;
    tr->count = 0;
    size_t slot = slot_bytes(tr);
    ode_pile_reset(&tr->states, slot);
    if (policy->carried) ode_pile_reset(&tr->carries, policy->carried);
    const size_t kept = plan_residuals(tr);
    if (tr->kept_limit) ode_pile_reset(&tr->kept, kept);
    if (!ode_buffer_need(&tr->bounds, 2 * sizeof(ode_boundary))) return NULL;
    if (policy->magnitudes && !ode_buffer_need(&tr->largest, slot)) return NULL;
    return ode_pile_slot(&tr->states, 1) ? ode_pile_slot(&tr->states, 0) : NULL;
}

void ode_trajectory_start(ode_trajectory *tr, const ode_boundary *first)
{
    *(ode_boundary *)tr->bounds.data = *first;
    if (!tr->policy.magnitudes) return;
    memset(tr->largest.data, 0, slot_bytes(tr));
    ode_grow(tr->system->dtype, tr->rows * tr->system->width, ode_pile_slot(&tr->states, 0),
             tr->largest.data);
}

void *ode_trajectory_next(ode_trajectory *tr, int64_t k)
{
    return ode_pile_slot(&tr->states, tr->stores ? k + 1 : (k + 1) % 2);
}

static bool within_budget(const ode_trajectory *tr, int64_t k)
{
    if (!tr->policy.states_bytes) return true;
    double bytes = (double)(slot_bytes(tr) + tr->policy.carried);
    return (double)(k + 2) * bytes <= (double)tr->policy.states_bytes;
}

bool ode_trajectory_add(ode_trajectory *tr, int64_t k, const ode_boundary *b, const void *carried,
                        const void *next)
{
    if (tr->policy.magnitudes)
        ode_grow(tr->system->dtype, tr->rows * tr->system->width, next, tr->largest.data);
    tr->stores = tr->stores && within_budget(tr, k);
    if (!tr->stores && !tr->policy.boundaries) return true;
    ode_boundary *all = ode_buffer_need(&tr->bounds, (size_t)(k + 2) * sizeof *all);
    if (!all) return false;
    all[k + 1] = *b;
    tr->count = k + 1;
    if (!carried || !tr->stores) return true;
    void *carry = ode_pile_slot(&tr->carries, k);
    if (!carry) return false;
    memcpy(carry, carried, tr->policy.carried);
    return true;
}

void ode_trajectory_rewind(ode_trajectory *tr, int64_t k) { tr->count = k; }

void ode_trajectory_end(ode_trajectory *tr)
{
    if (!tr->policy.states || tr->stores) return;
    ode_pile_trim(&tr->states, 2);
    ode_pile_trim(&tr->carries, 0);
    ode_pile_trim(&tr->kept, 0);
}

void ode_trajectory_close(ode_trajectory *tr)
{
    ode_pile_free(&tr->states);
    ode_pile_free(&tr->carries);
    ode_pile_free(&tr->kept);
    ode_buffer_free(&tr->bounds);
    ode_buffer_free(&tr->largest);
}

const ode_boundary *ode_trajectory_boundary(const ode_trajectory *tr, int64_t k)
{
    return (const ode_boundary *)tr->bounds.data + k;
}

void *ode_trajectory_state(ode_trajectory *tr, int64_t k) { return ode_pile_slot(&tr->states, k); }

void *ode_trajectory_carried(ode_trajectory *tr, int64_t k)
{
    return ode_pile_slot(&tr->carries, k);
}

/* Of step k; NULL: none. */
static char *kept_slot(ode_trajectory *tr, int64_t k)
{
    char *slot = k < tr->kept_limit ? ode_pile_slot(&tr->kept, k) : NULL;
    if (!slot && k < tr->kept_limit) tr->kept_limit = k; /* no memory: from here on none is kept */
    return slot;
}

void *ode_trajectory_kept(ode_trajectory *tr, int64_t k, int i)
{
    int last = tr->method->times;
    if (i == last) {
        k++;
        i = 0;
    } else if (i > last) i--;
    char *slot = kept_slot(tr, k);
    /* the first one is shorter: its state is stored as such */
    size_t behind = (size_t)(kept_stages(tr) - i) * tr->kept_stage;
    return slot && i > 0 ? slot + (tr->kept.slot - tr->policy.numbers - behind) : slot;
}

void *ode_trajectory_numbers(ode_trajectory *tr, int64_t k)
{
    char *slot = kept_slot(tr, k);
    return slot ? slot + (tr->kept.slot - tr->policy.numbers) : NULL;
}

size_t ode_trajectory_bytes(const ode_trajectory *tr)
{
    if (!tr->stores) return 0;
    size_t slot = slot_bytes(tr);
    int64_t kept = tr->count + 1 < tr->kept_limit ? tr->count + 1 : tr->kept_limit;
    return (size_t)(tr->count + 1) * (slot + sizeof(ode_boundary)) +
           (size_t)tr->count * tr->policy.carried + (size_t)kept * tr->kept.slot;
}
