/*
 * test_eigen.c - claims about common/eigen.c: orthonormal rows that diagonalise, in order, for
 * matrices of any kind.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/eigen.h"
#include "common/random.h"

enum { SEED = 20250711, N_MAX = 70 };

static double matrix[N_MAX * N_MAX], vectors[N_MAX * N_MAX], values[N_MAX];

static void fill_random(size_t n, double size)
{
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c <= r; c++)
            matrix[r * n + c] = matrix[c * n + r] = size * (random_unit(SEED, r * n + c) - 0.5);
}

/* Decomposes `matrix` and checks all that the header promises; `size` is that of its values. */
static void decompose(size_t n, double size)
{
    struct error err;
    memcpy(vectors, matrix, n * n * sizeof(double));
    assert_int_equal(eigen_symmetric(vectors, n, values, &err), STATUS_OK);
    const double allowed = 1e-13 * (double)n;
    for (size_t i = 0; i < n; i++) {
        const double *row = vectors + i * n;
        assert_true(i == 0 || values[i] <= values[i - 1]);
        double largest = 0;
        for (size_t c = 0; c < n; c++)
            largest = fabs(row[c]) > fabs(largest) ? row[c] : largest;
        assert_true(largest > 0);
        for (size_t j = 0; j < n; j++) {
            double product = 0, image = 0;
            for (size_t c = 0; c < n; c++) {
                product += row[c] * vectors[j * n + c];
                image += matrix[j * n + c] / size * row[c];
            }
            assert_true(fabs(product - (i == j)) <= allowed);
            assert_true(fabs(image - values[i] / size * row[j]) <= allowed);
        }
    }
}

static void eigenvectors_are_orthonormal_and_diagonalise(void **state)
{
    (void)state;
    for (size_t n = 1; n <= N_MAX; n += n < 10 ? 1 : 15) {
        fill_random(n, 1);
        decompose(n, 1);
    }
}

static void huge_and_tiny_matrices_are_scaled(void **state)
{
    (void)state;
    static const double sizes[] = {1e300, 1e150, 1e-150, 1e-290};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        fill_random(20, sizes[i]);
        decompose(20, sizes[i]);
    }
}

/* The path of n nodes with 2 on the diagonal: 2 - 2 cos(pi k / (n + 1)). */
static void known_spectrum_is_found(void **state)
{
    (void)state;
    enum { N = 33 };
    memset(matrix, 0, sizeof(matrix));
    for (size_t i = 0; i < N; i++) {
        matrix[i * N + i] = 2;
        if (i + 1 < N)
            matrix[i * N + i + 1] = matrix[(i + 1) * N + i] = -1;
    }
    decompose(N, 1);
    for (size_t i = 0; i < N; i++)
        assert_true(fabs(values[i] - (2 - 2 * cos(M_PI * (double)(N - i) / (N + 1)))) < 1e-13);
}

static void diagonal_matrix_is_sorted(void **state)
{
    (void)state;
    static const double diagonal[5] = {3, -1, 7, 3, 0};
    static const double wanted[5] = {7, 3, 3, 0, -1};
    static const size_t axis[5] = {2, 0, 3, 4, 1};
    memset(matrix, 0, sizeof(matrix));
    for (size_t i = 0; i < 5; i++)
        matrix[i * 5 + i] = diagonal[i];
    decompose(5, 1);
    for (size_t i = 0; i < 5; i++) {
        assert_true(values[i] == wanted[i]);
        assert_true(vectors[i * 5 + axis[i]] == 1);
    }
}

/* Rank one, rank zero, all equal: what covariances of constant or repeated vectors are. */
static void degenerate_matrices_keep_orthonormal_rows(void **state)
{
    (void)state;
    enum { N = 24 };
    memset(matrix, 0, sizeof(matrix));
    decompose(N, 1);
    for (size_t i = 0; i < N * N; i++)
        matrix[i] = 1;
    decompose(N, 1);
    assert_true(fabs(values[0] - N) < 1e-12);
    assert_true(fabs(values[1]) < 1e-12);
    for (size_t r = 0; r < N; r++)
        for (size_t c = 0; c < N; c++)
            matrix[r * N + c] = r == c ? 5 : 0;
    decompose(N, 1);
    /* Two blocks that do not touch, of equal spectra. */
    memset(matrix, 0, sizeof(matrix));
    for (size_t r = 0; r < N; r++)
        for (size_t c = 0; c < N; c++)
            if (r / (N / 2) == c / (N / 2))
                matrix[r * N + c] = 1.0 / (1.0 + (double)(r % (N / 2)) + (double)(c % (N / 2)));
    decompose(N, 1);
}

static void steep_spectra_converge(void **state)
{
    (void)state;
    enum { N = 40 };
    for (size_t r = 0; r < N; r++)
        for (size_t c = 0; c < N; c++)
            matrix[r * N + c] = pow(10, -0.4 * (double)(r + c)) * (r == c ? 1 : 0.3);
    decompose(N, 1);
}

static void only_the_upper_triangle_is_read(void **state)
{
    (void)state;
    enum { N = 12 };
    double first[N];
    fill_random(N, 1);
    decompose(N, 1);
    memcpy(first, values, sizeof(first));
    for (size_t r = 0; r < N; r++)
        for (size_t c = 0; c < N; c++)
            vectors[r * N + c] = c < r ? NAN : matrix[r * N + c];
    assert_int_equal(eigen_symmetric(vectors, N, values, NULL), STATUS_OK);
    assert_memory_equal(first, values, sizeof(first));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eigenvectors_are_orthonormal_and_diagonalise),
        cmocka_unit_test(huge_and_tiny_matrices_are_scaled),
        cmocka_unit_test(known_spectrum_is_found),
        cmocka_unit_test(diagonal_matrix_is_sorted),
        cmocka_unit_test(degenerate_matrices_keep_orthonormal_rows),
        cmocka_unit_test(steep_spectra_converge),
        cmocka_unit_test(only_the_upper_triangle_is_read),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
