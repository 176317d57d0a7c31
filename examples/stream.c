/* A C program that owns the loop: it makes D, I and the signal itself and calls the kernels.
 *
 * Build (examples/stream.py does it):  cc -shared -fPIC -O2 -I <header()> stream.c -o stream.so
 */
#include <stdlib.h>

#include "sparsegrad.h"

/* A small generator, so that the caller can make the same numbers: uniform in [-1/2, 1/2). */
static double uniform(uint64_t *state) {
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double)(*state >> 11) / 9007199254740992.0 - 0.5;
}

/* Return 0, or 1 if there is no memory. `grad` gets the sum over all steps; `influence` is J. */
int stream(const sparsegrad_program *p, const sparsegrad_float64_functions *f, int64_t steps,
           uint64_t seed, double *influence, double *grad) {
    double *dynamics = malloc(sizeof(double) * (size_t)p->dynamics_nnz);
    double *immediate = malloc(sizeof(double) * (size_t)p->immediate_nnz);
    double *signal = malloc(sizeof(double) * (size_t)p->units);
    double *step_grad = malloc(sizeof(double) * (size_t)p->weights);
    double *scratch = malloc(sizeof(double) * (size_t)p->scratch_size);
    int failed = !dynamics || !immediate || !signal || !step_grad || !scratch;
    for (int64_t t = 0; t < steps && !failed; t++) {
        for (int64_t e = 0; e < p->dynamics_nnz; e++) dynamics[e] = uniform(&seed);
        for (int64_t e = 0; e < p->immediate_nnz; e++) immediate[e] = uniform(&seed);
        for (int64_t i = 0; i < p->units; i++) signal[i] = uniform(&seed);
        if (t % 2 == 0) {
            f->update_and_contract(p, 1, dynamics, immediate, signal, influence, step_grad,
                                   scratch);
        } else {
            f->update(p, 1, dynamics, immediate, influence, scratch);
            f->contract(p, 1, signal, influence, step_grad, scratch);
        }
        for (int64_t w = 0; w < p->weights; w++) grad[w] += step_grad[w];
    }
    free(dynamics), free(immediate), free(signal), free(step_grad), free(scratch);
    return failed;
}
