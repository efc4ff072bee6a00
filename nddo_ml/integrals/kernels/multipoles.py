"""Integrals of charge distributions in the frame of a pair, and their derivatives: sums of inverse distances of point charges.

    integral_k = sum_t weight_tk / sqrt(sum of squares of linear forms in (R, separations and additive terms of both atoms))

The linear forms, which of them make a distance and the weights are the constants of `configurations.ChargeKernel`, kept sparse.
"""

from math import sqrt

from nddo_ml.common.jit import bare_inlined


@bare_inlined
def interactions(kind, charges, scratch):
    """The integrals of a pair of kind `kind` (eV), those that are not zero one after another, into scratch.local.

    scratch.given holds R and the features of both atoms (bohr); linear forms and inverse distances stay in the scratch for
    `pulled`.
    """
    given, forms, inverse, local = scratch.given, scratch.forms, scratch.inverse, scratch.local
    first, last = charges.squares[kind], charges.squares[kind + 1]
    for k in range(last - first):
        value = 0.0
        for t in range(charges.coordinate_at[first + k], charges.coordinate_at[first + k + 1]):
            value += charges.coordinate[t] * given[charges.coordinate_of[t]]
        forms[k] = value
    start, end = charges.terms[kind], charges.terms[kind + 1]
    for k in range(end - start):
        value = 0.0
        for t in range(charges.distance_at[start + k], charges.distance_at[start + k + 1]):
            form = forms[charges.distance_of[t]]
            value += charges.distance[t] * form * form
        inverse[k] = value
    for k in range(end - start):
        inverse[k] = 1.0 / sqrt(inverse[k])
    for k in range(charges.integrals[kind + 1] - charges.integrals[kind]):
        local[k] = 0.0
    for k in range(end - start):
        value = inverse[k]
        for t in range(charges.weight_at[start + k], charges.weight_at[start + k + 1]):
            local[charges.weight_of[t]] += charges.weight[t] * value


@bare_inlined
def pulled(kind, charges, scratch, count):
    """Derivatives by R and the features of both atoms, `count` values in all, into scratch.pulled; scratch.weights: those of
    the energy by each integral. `interactions` of the same pair came before.
    """
    forms, inverse, weights, slopes, result = scratch.forms, scratch.inverse, scratch.weights, scratch.slopes, scratch.pulled
    first, last = charges.squares[kind], charges.squares[kind + 1]
    for k in range(last - first):
        slopes[k] = 0.0
    start, end = charges.terms[kind], charges.terms[kind + 1]
    for k in range(end - start):
        value = 0.0
        for t in range(charges.weight_at[start + k], charges.weight_at[start + k + 1]):
            value += charges.weight[t] * weights[charges.weight_of[t]]
        value *= -inverse[k] * inverse[k] * inverse[k]      # 1/2 of it meets the 2 of the squares
        for t in range(charges.distance_at[start + k], charges.distance_at[start + k + 1]):
            slopes[charges.distance_of[t]] += charges.distance[t] * value
    for k in range(count):
        result[k] = 0.0
    for k in range(last - first):
        value = slopes[k] * forms[k]
        for t in range(charges.coordinate_at[first + k], charges.coordinate_at[first + k + 1]):
            result[charges.coordinate_of[t]] += charges.coordinate[t] * value


@bare_inlined
def gathered(kind, charges, features, i, j, R, scratch):
    """R and the features of atoms i and j (bohr) of a pair of kind `kind` into scratch.given; how many values that are.

    j < 0: the additive term of the other partner is written by the caller.
    """
    given = scratch.given
    given[0] = R
    place = 1
    for t in range(charges.first[kind], charges.second[kind]):
        given[place] = features[i, charges.feature[t]]
        place += 1
    for t in range(charges.second[kind], charges.first[kind + 1]):
        if j >= 0:
            given[place] = features[j, charges.feature[t]]
        place += 1
    return place


@bare_inlined
def spread(kind, charges, scratch, i, j, scale, to_features):
    """Adds derivatives by the features of atoms i and j, scratch.pulled times `scale`, to `to_features` (atom, feature); j < 0:
    those of i alone."""
    place = 1
    for t in range(charges.first[kind], charges.second[kind]):
        to_features[i, charges.feature[t]] += scale * scratch.pulled[place]
        place += 1
    if j >= 0:
        for t in range(charges.second[kind], charges.first[kind + 1]):
            to_features[j, charges.feature[t]] += scale * scratch.pulled[place]
            place += 1


@bare_inlined
def packed_rows(M, table_i, table_j, W):
    """W = C_i M C_j^T: a matrix of components of two atoms as one of packed distributions. C_i and C_j are the decompositions
    of the distributions, given as (start of each row, component, coefficient)."""
    at_i, of_i, value_i = table_i
    at_j, of_j, value_j = table_j
    for x in range(len(at_i) - 1):
        for y in range(len(at_j) - 1):
            total = 0.0
            for s in range(at_i[x], at_i[x + 1]):
                part, p = 0.0, of_i[s]
                for t in range(at_j[y], at_j[y + 1]):
                    part += value_j[t] * M[p, of_j[t]]
                total += value_i[s] * part
            W[x, y] = total


@bare_inlined
def component_weights(W, table_i, table_j, M, rows, columns):
    """M (rows, columns) = C_i^T W C_j, the adjoint of `packed_rows`: weights of packed distributions as those of components."""
    at_i, of_i, value_i = table_i
    at_j, of_j, value_j = table_j
    for p in range(rows):
        for q in range(columns):
            M[p, q] = 0.0
    for x in range(len(at_i) - 1):
        for y in range(len(at_j) - 1):
            w = W[x, y]
            for s in range(at_i[x], at_i[x + 1]):
                part, p = value_i[s] * w, of_i[s]
                for t in range(at_j[y], at_j[y + 1]):
                    M[p, of_j[t]] += part * value_j[t]
