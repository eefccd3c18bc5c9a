/*
 * eigen.h - eigenvalues and eigenvectors of a real symmetric matrix.
 *
 * For covariances of up to some thousand dimensions. Plain arithmetic in a fixed order, no BLAS and
 * no libm beyond sqrt(), which IEEE 754 defines: every machine gets the same bits.
 */
#ifndef NIGHTJAR_COMMON_EIGEN_H
#define NIGHTJAR_COMMON_EIGEN_H

#include <stddef.h>

#include "common/compiler.h"
#include "common/error.h"

/* Diagonalises the symmetric matrix[n * n] of finite values, n >= 1, whose upper triangle is read.
 * On success values[n] descend and row i of matrix is the unit eigenvector of values[i]; its
 * largest component, the first of equals, is positive. Rows are orthonormal to rounding for any
 * matrix, repeated and zero eigenvalues included. O(n^3) time (1 s
 * for n = 1024); allocates as much as the matrix and frees it. Thread-safe. */
NODISCARD enum status eigen_symmetric(double *matrix, size_t n, double *values, struct error *err);

#endif
