/* sparsegrad's kernels as C function pointers.
 *
 *     J <- P o (I + D J)        grad = sum over the batch of J^T delta
 *
 * The pointers come from a Python process (sparsegrad.interop.c): the kernels are compiled for the
 * CPU they run on. Nothing here allocates, fails, or needs the interpreter or its lock. Arrays are
 * contiguous, row-major, of one float type; the program is shared by threads, scratch is not.
 */
#ifndef SPARSEGRAD_H
#define SPARSEGRAD_H

#include <stdint.h>

/* The structure of one pattern: read-only, and owned by the Python object that it came from. */
typedef struct {
    int64_t units;            /* state numbers */
    int64_t weights;          /* weights that exist */
    int64_t dynamics_nnz;     /* values of D, in CSR order */
    int64_t immediate_nnz;    /* values of I, in CSC order: weight by weight */
    int64_t influence_size;   /* elements of J for one sequence, with padding */
    int64_t scratch_size;     /* elements of `scratch` */
    int64_t panels_count;
    int64_t segments_count;
    int64_t entries_count;
    int64_t members_count;
    int64_t rows_count;
    int64_t runs_count;
    const int64_t *panels;
    const int64_t *segments;
    const int64_t *entries;
    const int64_t *members;
    const int32_t *reached;
    const int32_t *columns;
    const int64_t *runs;
} sparsegrad_program;

/* REAL is float or double. `influence` is zero at the start of a sequence. */
#define SPARSEGRAD_FUNCTIONS(REAL, NAME)                                                           \
    typedef void (*NAME##_update)(                                                                 \
        const sparsegrad_program *program, int64_t batch, const REAL *dynamics_data,               \
        const REAL *immediate_data, REAL *influence, REAL *scratch);                               \
    typedef void (*NAME##_contract)(                                                               \
        const sparsegrad_program *program, int64_t batch, const REAL *state_grad,                  \
        const REAL *influence, REAL *grad, REAL *scratch);                                         \
    typedef void (*NAME##_update_and_contract)(                                                    \
        const sparsegrad_program *program, int64_t batch, const REAL *dynamics_data,               \
        const REAL *immediate_data, const REAL *state_grad, REAL *influence, REAL *grad,           \
        REAL *scratch);                                                                            \
    typedef struct {                                                                               \
        NAME##_update update;                                                                      \
        NAME##_contract contract;                                                                  \
        NAME##_update_and_contract update_and_contract;                                            \
    } NAME##_functions;

SPARSEGRAD_FUNCTIONS(float, sparsegrad_float32)
SPARSEGRAD_FUNCTIONS(double, sparsegrad_float64)

/* dynamics_data  (batch, dynamics_nnz)      immediate_data  (batch, immediate_nnz)
 * state_grad     (batch, units)             influence       (batch, influence_size)
 * grad           (weights,)                 scratch         (scratch_size,)
 */

#endif
