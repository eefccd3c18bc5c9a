/*
 * eigen.c - Householder tridiagonalisation, then implicit QL with Wilkinson's shift (Golub, Van
 * Loan, Matrix Computations, 8.3; Martin, Wilkinson 1968).
 *
 * Departures from the textbook are for the memory: eigenvectors are kept as rows, so that
 * reflections and rotations run along them, and a sweep's rotations are gathered and then applied
 * slice by slice of the columns, each slice small enough for a core's cache.
 *
 * Threads: pure over its arguments. No team: the work comes in thousands of steps of less than a
 * millisecond (n = 1024: 1 s in all), and on a machine with other work the barriers between them
 * cost thirty times what they shared out.
 */
#include "common/eigen.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/memory.h"

enum {
    SLICE_COLUMNS = 64,
    SWEEPS_MAX = 60, /* an eigenvalue takes about 1.7 */
};

/* A tridiagonal matrix and what led to it. */
struct eigen_work {
    size_t n;
    double *matrix;   /* n x n: the matrix, then reflections: row k from k + 1 */
    double *vectors;  /* n x n: rows */
    double *diagonal; /* n */
    double *off;      /* n: off[i] between i and i + 1; off[n - 1] = 0 */
    double *beta;     /* n: of reflection k; 0: none */
    double *cosine;   /* n: of a sweep's rotations */
    double *sine;
};

/* Eight sums, as one chain of additions is latency-bound and a compiler may not regroup it. */
static double dot(const double *a, const double *b, size_t n)
{
    double sum[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sum[i % 8] += a[i] * b[i];
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/* ---- to tridiagonal ---- */

/* Turns x[m] into v of the reflection I - beta v v^T that maps x to alpha e1. */
static double reflection(double *x, size_t m, double *alpha)
{
    double tail = dot(x + 1, x + 1, m - 1);
    *alpha = x[0];
    if (tail == 0)
        return 0;
    double norm = sqrt(x[0] * x[0] + tail);
    *alpha = x[0] > 0 ? -norm : norm;
    x[0] -= *alpha;
    return 2 / (x[0] * x[0] + tail);
}

/* B := H B H for the trailing block B of m x m at row k + 1, with H = I - beta v v^T. `w` is
 * scratch of m. */
static void block_reflect(const struct eigen_work *work, size_t k, const double *v, double *w)
{
    const size_t n = work->n, m = n - k - 1;
    const double beta = work->beta[k];
    double *block = work->matrix + (k + 1) * n + k + 1;
    for (size_t r = 0; r < m; r++)
        w[r] = beta * dot(block + r * n, v, m);
    const double half = 0.5 * beta * dot(w, v, m);
    for (size_t r = 0; r < m; r++)
        w[r] -= half * v[r];
    for (size_t r = 0; r < m; r++) {
        double *row = block + r * n;
        const double vr = v[r], wr = w[r];
        /* Both triangles get the same sums, so the block stays symmetric to the bit. */
        for (size_t c = 0; c < m; c++)
            row[c] -= vr * w[c] + wr * v[c];
    }
}

static void tridiagonalise(struct eigen_work *work)
{
    const size_t n = work->n;
    for (size_t k = 0; k < n; k++) {
        double *row = work->matrix + k * n;
        work->diagonal[k] = row[k];
        work->beta[k] = 0;
        if (k + 1 == n)
            work->off[k] = 0;
        else if (k + 2 == n)
            work->off[k] = row[k + 1];
        else
            work->beta[k] = reflection(row + k + 1, n - k - 1, &work->off[k]);
        if (work->beta[k] != 0)
            block_reflect(work, k, row + k + 1, work->sine);
    }
}

/* vectors := the reflections' product, transposed: its rows are turned into eigenvectors by the
 * rotations that follow. */
static void reflections_multiply(struct eigen_work *work)
{
    const size_t n = work->n;
    for (size_t i = 0; i < n; i++)
        work->vectors[i * n + i] = 1;
    for (size_t k = n; k-- > 0;) {
        if (work->beta[k] == 0)
            continue;
        const size_t m = n - k - 1;
        const double *v = work->matrix + k * n + k + 1;
        for (size_t r = k + 1; r < n; r++) {
            double *row = work->vectors + r * n + k + 1;
            const double share = work->beta[k] * dot(row, v, m);
            for (size_t c = 0; c < m; c++)
                row[c] -= share * v[c];
        }
    }
}

/* ---- QL ---- */

/* Rotations last - 1 down to first, each of rows i and i + 1. */
static void rotate(const struct eigen_work *work, size_t first, size_t last)
{
    const size_t n = work->n;
    for (size_t from = 0; from < n; from += SLICE_COLUMNS) {
        const size_t columns = MIN((size_t)SLICE_COLUMNS, n - from);
        for (size_t i = last; i-- > first;) {
            double *low = work->vectors + i * n + from, *high = low + n;
            const double c = work->cosine[i], s = work->sine[i];
            for (size_t j = 0; j < columns; j++) {
                const double a = low[j], b = high[j];
                high[j] = s * a + c * b;
                low[j] = c * a - s * b;
            }
        }
    }
}

/* The first index from l on whose off-diagonal is nothing beside its neighbours. */
static size_t split_find(const struct eigen_work *work, size_t l)
{
    const double *d = work->diagonal;
    size_t m = l;
    while (m + 1 < work->n && fabs(work->off[m]) > DBL_EPSILON * (fabs(d[m]) + fabs(d[m + 1])) &&
           fabs(work->off[m]) > DBL_MIN)
        m++;
    return m;
}

/* One implicit QL sweep over l..m. */
static void sweep(struct eigen_work *work, size_t l, size_t m)
{
    double *d = work->diagonal, *e = work->off;
    double g = (d[l + 1] - d[l]) / (2 * e[l]);
    double r = fabs(g) < 0x1p500 ? sqrt(g * g + 1) : fabs(g);
    g = d[m] - d[l] + e[l] / (g + (g < 0 ? -r : r));
    double s = 1, c = 1, p = 0;
    size_t i = m;
    bool whole = true;
    while (i-- > l) {
        const double f = s * e[i], b = c * e[i];
        r = sqrt(f * f + g * g);
        e[i + 1] = r;
        if (r == 0) { /* the matrix fell apart here */
            d[i + 1] -= p;
            whole = false;
            break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        work->cosine[i] = c;
        work->sine[i] = s;
    }
    rotate(work, whole ? l : i + 1, m);
    if (whole) {
        d[l] -= p;
        e[l] = g;
    }
    e[m] = 0;
}

/* A value that does not settle within SWEEPS_MAX is taken as it is: what matters to a transform,
 * orthonormal rows, holds after any number of rotations. */
static void diagonalise(struct eigen_work *work)
{
    for (size_t l = 0; l < work->n; l++) {
        for (unsigned sweeps = 0; sweeps < SWEEPS_MAX; sweeps++) {
            size_t m = split_find(work, l);
            if (m == l)
                break;
            sweep(work, l, m);
        }
    }
}

/* ---- the whole ---- */

static void sign_normalise(double *row, size_t n)
{
    size_t largest = 0;
    for (size_t i = 1; i < n; i++)
        if (fabs(row[i]) > fabs(row[largest]))
            largest = i;
    if (row[largest] < 0)
        for (size_t i = 0; i < n; i++)
            row[i] = -row[i];
}

/* Copies the rows to `out` by descending value, equal ones in the order they are in. */
static void rows_sort(struct eigen_work *work, double *out, double *values)
{
    const size_t n = work->n;
    double *left = work->diagonal;
    for (size_t i = 0; i < n; i++) {
        size_t best = SIZE_MAX;
        for (size_t j = 0; j < n; j++)
            if (work->beta[j] == 0 && (best == SIZE_MAX || left[j] > left[best]))
                best = j;
        work->beta[best] = 1; /* taken */
        values[i] = left[best];
        memcpy(out + i * n, work->vectors + best * n, n * sizeof(*out));
        sign_normalise(out + i * n, n);
    }
}

/* Divides by a power of two, which is exact, so that no square overflows or vanishes. */
static int scale_down(double *matrix, size_t n)
{
    double largest = 0;
    int exponent = 0;
    for (size_t r = 0; r < n; r++)
        for (size_t c = r; c < n; c++)
            largest = fmax(largest, fabs(matrix[r * n + c]));
    (void)frexp(largest, &exponent);
    for (size_t r = 0; r < n; r++) {
        for (size_t c = r; c < n; c++) {
            matrix[r * n + c] = ldexp(matrix[r * n + c], -exponent);
            matrix[c * n + r] = matrix[r * n + c];
        }
    }
    return exponent;
}

enum status eigen_symmetric(double *matrix, size_t n, double *values, struct error *err)
{
    size_t floats;
    void *memory = NULL;
    if (!size_mul(n, n + 5, &floats))
        return error_set(err, STATUS_NO_MEMORY, "eigenvectors of %zu dimensions", n);
    enum status status = bulk_alloc(floats, sizeof(double), "eigenvectors", &memory, err);
    if (status != STATUS_OK)
        return status;
    double *spare = (double *)memory + n * n;
    struct eigen_work work = {
        .n = n,
        .matrix = matrix,
        .vectors = memory,
        .diagonal = spare,
        .off = spare + n,
        .beta = spare + 2 * n,
        .cosine = spare + 3 * n,
        .sine = spare + 4 * n,
    };
    int exponent = scale_down(matrix, n);
    tridiagonalise(&work);
    reflections_multiply(&work);
    diagonalise(&work);
    memset(work.beta, 0, n * sizeof(double));
    rows_sort(&work, matrix, values);
    for (size_t i = 0; i < n; i++)
        values[i] = ldexp(values[i], exponent);
    bulk_free(memory, floats, sizeof(double));
    return STATUS_OK;
}
