"""The C functions that generated sources consist of; only those that are called are written.

C99 without a library: tanh is a rational function of our own fit (Lawson's iteration on [0, 9]; the largest error in
float32 is 3.4e-7), and all other activations follow from it.

Real numbers: loops run over eight outputs at once, which stay in registers, so that compilers vectorise them without
being allowed to reorder sums. Integers: sums may be reordered, and a dot product of int16 is one instruction for two
(SSE2, Cortex-M4) to sixteen products.

NaN goes through all functions of real numbers to ``s->params``; where it becomes an integer it is 0.
"""

from __future__ import annotations

from collections.abc import Iterable

from understudy.io.export.c.convolutions import CONVOLUTIONS

_TANH = """
static float tanh_of(float x)
{
    float z, p, q;
    x = x > 9.0f ? 9.0f : x < -9.0f ? -9.0f : x;
    z = x * x;
    p = ((((1.33532891e-08f * z + 2.06081531e-05f) * z + 3.49553535e-03f) * z + 0.13380982f) * z + 1.0f) * x;
    q = (((7.77601315e-07f * z + 3.28554568e-04f) * z + 2.58767847e-02f) * z + 0.467142969f) * z + 1.0f;
    p /= q;
    return p > 1.0f ? 1.0f : p < -1.0f ? -1.0f : p;
}
"""
_SIGMOID = """
static float sigmoid_of(float x)
{
    return 0.5f + 0.5f * tanh_of(0.5f * x);
}
"""
_ELU = """
static float elu_of(float x)
{
    /* exp(x) - 1 = 2 t / (1 - t) with t = tanh(x / 2) */
    float t = tanh_of(0.5f * (x > 0.0f ? 0.0f : x));
    return x > 0.0f ? x : 2.0f * t / (1.0f - t);
}
"""
_RELU = """
static float relu_of(float x)
{
    return x < 0.0f ? 0.0f : x;
}
"""
_LEAKY = """
static float leaky_relu_of(float x)
{
    return x > 0.0f ? x : 0.01f * x;
}
"""
_SILU = """
static float silu_of(float x)
{
    return x * sigmoid_of(x);
}
"""


def _all(name: str) -> str:
    return f"""
static void {name}_all(float *x, int n)
{{
    int i;
    for (i = 0; i < n; i++)
        x[i] = {name}_of(x[i]);
}}
"""


_NORMALISE = """
static void normalise(const float *x, int n, const float *mean, const float *inverse_std, float bound, float *y)
{
    int i;
    for (i = 0; i < n; i++) {
        float v = (x[i] - mean[i]) * inverse_std[i];
        y[i] = v > bound ? bound : v < -bound ? -bound : v;
    }
}
"""
_NORMALISE_FINE = """
static void normalise_fine(const float *x, int n, const float *mean, const float *rest, const float *inverse_std,
                           float bound, float *y)
{
    int i;
    for (i = 0; i < n; i++) {
        float v = ((x[i] - mean[i]) - rest[i]) * inverse_std[i];
        y[i] = v > bound ? bound : v < -bound ? -bound : v;
    }
}
"""
_COPY = """
static void copy(const float *x, int n, float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = x[i];
}
"""
_SCALE = """
static void scale_all(float *x, int n, float factor)
{
    int i;
    for (i = 0; i < n; i++)
        x[i] *= factor;
}
"""
_ONE_HOT = """
static void one_hot(int32_t index, int n, float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = i == index ? 1.0f : 0.0f;
}
"""
_DENSE = """
static void dense(const float *x, int inputs, const float *w, const float *bias, int outputs, float *y)
{
    int i, j, k;
    for (j = 0; j + 8 <= outputs; j += 8) {
        float s[8];
        for (k = 0; k < 8; k++)
            s[k] = bias[j + k];
        for (i = 0; i < inputs; i++) {
            const float v = x[i];
            const float *row = w + i * outputs + j;
            for (k = 0; k < 8; k++)
                s[k] += v * row[k];
        }
        for (k = 0; k < 8; k++)
            y[j + k] = s[k];
    }
    for (; j < outputs; j++) {
        float s = bias[j];
        for (i = 0; i < inputs; i++)
            s += x[i] * w[i * outputs + j];
        y[j] = s;
    }
}
"""
_DENSE_I8 = """
static void dense_i8(const int16_t *x, int inputs, const int8_t *w, const float *scale, const float *bias, int outputs,
                     float *y)
{
    int i, j;
    for (j = 0; j < outputs; j++) {
        int32_t s = 0;
        const int8_t *row = w + j * inputs;
        for (i = 0; i < inputs; i++)
            s += (int32_t)x[i] * (int16_t)row[i];
        y[j] = (float)s * scale[j] + bias[j];
    }
}
"""
_ROUND = """
static int16_t rounded(float v, float limit)
{
    v = v > limit ? limit : v < -limit ? -limit : v == v ? v : 0.0f; /* NaN is no integer */
    return (int16_t)(v + (v < 0.0f ? -0.5f : 0.5f));
}
"""
_QUANTISE = """
static void quantise(const float *x, int n, float inverse, float limit, int16_t *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = rounded(x[i] * inverse, limit);
}
"""
_QUANTISE_EACH = """
static void quantise_each(const float *x, int n, const float *inverse, float limit, int16_t *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = rounded(x[i] * inverse[i], limit);
}
"""
_DEQUANTISE = """
static void dequantise(const int16_t *x, int n, float step, float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = (float)x[i] * step;
}
"""
_LSTM = """
static void lstm_cell(const float *gates, int n, float *h, float *c)
{
    int k;
    for (k = 0; k < n; k++) {
        float kept = sigmoid_of(gates[n + k]) * c[k];
        c[k] = kept + sigmoid_of(gates[k]) * tanh_of(gates[2 * n + k]);
        h[k] = sigmoid_of(gates[3 * n + k]) * tanh_of(c[k]);
    }
}
"""
_GRU = """
static void gru_cell(const float *gates, int n, float *h)
{
    /* three gates by the input, then the same three by h */
    int k;
    for (k = 0; k < n; k++) {
        const float r = sigmoid_of(gates[k] + gates[3 * n + k]), z = sigmoid_of(gates[n + k] + gates[4 * n + k]);
        const float next = tanh_of(gates[2 * n + k] + r * gates[5 * n + k]);
        h[k] = next + z * (h[k] - next);
    }
}
"""
_ARGMAX = """
static int32_t argmax(const float *x, int n)
{
    int32_t best = 0;
    int i;
    for (i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}
"""
_EXP = """
static float exp_of(float x)
{
    /* for x <= 0: exp(x) = 2^-k exp(r), |r| <= log(2) / 2, a Taylor series of degree 6 */
    float r, y;
    int k;
    if (!(x >= -30.0f))
        return x < 0.0f ? 0.0f : x;
    k = (int)(0.5f - x * 1.44269504f);
    r = x + (float)k * 0.693359375f - (float)k * 2.12194440e-4f;
    y = (((((1.38888889e-3f * r + 8.33333333e-3f) * r + 4.16666667e-2f) * r + 0.166666667f) * r + 0.5f) * r + 1.0f) * r;
    y += 1.0f;
    for (; k > 0; k--)
        y *= 0.5f;
    return y;
}
"""
_EXPECTED = """
static void expected_value(const float *x, int atoms, int n, float low, float step, float *y)
{
    int i, k;
    for (k = 0; k < n; k++) {
        float top = x[k], sum = 0.0f, place = 0.0f;
        for (i = 1; i < atoms; i++)
            top = x[i * n + k] > top ? x[i * n + k] : top;
        for (i = 0; i < atoms; i++) {
            const float p = exp_of(x[i * n + k] - top);
            sum += p;
            place += p * (float)i;
        }
        y[k] = low + step * (place / sum);
    }
}
"""
_FORBID = """
static void forbid(const float *allowed, int n, float *logits)
{
    int i;
    for (i = 0; i < n; i++)
        logits[i] = allowed[i] < 0.5f ? -1e9f : logits[i];
}
"""
KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tanh_of": (_TANH, ()),
    "sigmoid_of": (_SIGMOID, ("tanh_of",)),
    "elu_of": (_ELU, ("tanh_of",)),
    "relu_of": (_RELU, ()),
    "leaky_relu_of": (_LEAKY, ()),
    "silu_of": (_SILU, ("sigmoid_of",)),
    **{
        f"{name}_all": (_all(name), (f"{name}_of",))
        for name in ("tanh", "sigmoid", "elu", "relu", "leaky_relu", "silu")
    },
    "normalise": (_NORMALISE, ()),
    "normalise_fine": (_NORMALISE_FINE, ()),
    "copy": (_COPY, ()),
    "scale_all": (_SCALE, ()),
    "one_hot": (_ONE_HOT, ()),
    "dense": (_DENSE, ()),
    "dense_i8": (_DENSE_I8, ()),
    "rounded": (_ROUND, ()),
    "quantise": (_QUANTISE, ("rounded",)),
    "quantise_each": (_QUANTISE_EACH, ("rounded",)),
    "dequantise": (_DEQUANTISE, ()),
    "lstm_cell": (_LSTM, ("sigmoid_of", "tanh_of")),
    "gru_cell": (_GRU, ("sigmoid_of", "tanh_of")),
    "argmax": (_ARGMAX, ()),
    "exp_of": (_EXP, ()),
    "expected_value": (_EXPECTED, ("exp_of",)),
    "forbid": (_FORBID, ()),
    **CONVOLUTIONS,
}
"""By name: the text, and the functions that it calls."""


def write_kernels(names: Iterable[str]) -> str:
    """Return the functions with what they call, each once and before its callers."""
    wanted: dict[str, None] = {}

    def want(name: str) -> None:
        for needed in KERNELS[name][1]:
            want(needed)
        wanted[name] = None

    for name in names:
        want(name)
    return "".join(KERNELS[name][0] for name in KERNELS if name in wanted)
