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

/* A cell: its sparse maps, and its update; likewise. `update` is a number, or an address. */
typedef struct {
    int64_t units;
    int64_t inputs;
    int64_t components;       /* state numbers of a unit */
    int64_t maps;
    int64_t update;
    int64_t weights;
    int64_t map_partials;
    int64_t state_partials;
    int64_t own_count;
    int64_t runs;
    int64_t run_entries;
    const int64_t *indptr;
    const int64_t *recurrent_end;
    const int32_t *indices;
    const int64_t *map_indptr;
    const int32_t *map_components;
    const int32_t *state_rows;
    const int32_t *state_columns;
    const int32_t *own_place;
    const int32_t *own_source;
    const int64_t *run_indptr;
    const int32_t *run_source;
    const int32_t *run_weight;
    const int32_t *run_place;
    const int32_t *order;
} sparsegrad_cell;

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
    typedef void (*NAME##_step)(                                                                   \
        const sparsegrad_program *program, const sparsegrad_cell *cell, int64_t batch,             \
        const REAL *weights, const REAL *x, const REAL *state, REAL *new_state,                    \
        REAL *dynamics_data, REAL *immediate_data, REAL *scratch);                                 \
    typedef struct {                                                                               \
        NAME##_update update;                                                                      \
        NAME##_contract contract;                                                                  \
        NAME##_update_and_contract update_and_contract;                                            \
        NAME##_step step;                                                                          \
    } NAME##_functions;

SPARSEGRAD_FUNCTIONS(float, sparsegrad_float32)
SPARSEGRAD_FUNCTIONS(double, sparsegrad_float64)

/* dynamics_data  (batch, dynamics_nnz)      immediate_data  (batch, immediate_nnz)
 * state_grad     (batch, units)             influence       (batch, influence_size)
 * grad           (weights,)                 scratch         (scratch_size,)
 *
 * A step: s', D and I of each sequence, of the cell that the program is of. Its scratch is work_size
 * elements (sparsegrad.interop.c.CCell):
 *
 * x              (batch, inputs)            weights         (weights,), as cell.weights
 * state          (batch, components, units) new_state       likewise
 */

#endif
