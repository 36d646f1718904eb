"""The convolutions of generated sources; see ``kernels``."""

from __future__ import annotations

_SHAPE = """
typedef struct {
    int height, width, channels;            /* of the input */
    int row, column, channel;               /* its strides */
    int kernel, stride, pad;
    int out_height, out_width, outputs;     /* outputs lie side by side */
} shape_of_convolution;
"""


_CONVOLVE = """
static void {name}(const {read} *x, const shape_of_convolution *f, const float *w, const float *bias, float *y)
{{
    int u, v, o, i, j, c, k;
    for (u = 0; u < f->out_height; u++)
        for (v = 0; v < f->out_width; v++)
            for (o = 0; o < f->outputs; o += 8) {{
                float s[8];
                for (k = 0; k < 8; k++)
                    s[k] = bias[o + k];
                for (i = 0; i < f->kernel; i++) {{
                    const int row = u * f->stride - f->pad + i;
                    if (row < 0 || row >= f->height)
                        continue;
                    for (j = 0; j < f->kernel; j++) {{
                        const int column = v * f->stride - f->pad + j;
                        const {read} *cell;
                        const float *rows = w + (i * f->kernel + j) * f->channels * f->outputs + o;
                        if (column < 0 || column >= f->width)
                            continue;
                        cell = x + row * f->row + column * f->column;
                        for (c = 0; c < f->channels; c++) {{
                            const float value = (float)cell[c * f->channel];
                            for (k = 0; k < 8; k++)
                                s[k] += value * rows[c * f->outputs + k];
                        }}
                    }}
                }}
                for (k = 0; k < 8; k++)
                    y[(u * f->out_width + v) * f->outputs + o + k] = {activation}_of(s[k]);
            }}
}}
"""
_CONVOLVE_I8 = """
static void {name}(const {read} *x, const shape_of_convolution *f, const int8_t *w, const float *scale,
                   const float *bias, float inverse, float limit, int16_t *y)
{{
    int u, v, o, i, j, c;
    for (u = 0; u < f->out_height; u++)
        for (v = 0; v < f->out_width; v++)
            for (o = 0; o < f->outputs; o++) {{
                int32_t s = 0;
                for (i = 0; i < f->kernel; i++) {{
                    const int row = u * f->stride - f->pad + i;
                    if (row < 0 || row >= f->height)
                        continue;
                    for (j = 0; j < f->kernel; j++) {{
                        const int column = v * f->stride - f->pad + j;
                        const {read} *cell;
                        const int8_t *taps = w + ((o * f->kernel + i) * f->kernel + j) * f->channels;
                        if (column < 0 || column >= f->width)
                            continue;
                        cell = x + row * f->row + column * f->column;
                        for (c = 0; c < f->channels; c++)
                            s += (int32_t)cell[c * f->channel] * (int16_t)taps[c];
                    }}
                }}
                y[(u * f->out_width + v) * f->outputs + o] =
                    rounded({activation}_of((float)s * scale[o] + bias[o]) * inverse, limit);
            }}
}}
"""


def _convolution_f32(read: str, activation: str) -> str:
    return _CONVOLVE.format(name=f"convolve_{_SHORT[read]}_{activation}", read=read, activation=activation)


def _convolution_i8(read: str, activation: str) -> str:
    return _CONVOLVE_I8.format(name=f"convolve_{_SHORT[read]}_i8_{activation}", read=read, activation=activation)


_SHORT = {"uint8_t": "u8", "float": "f32", "int16_t": "i16"}
CONVOLUTIONS: dict[str, tuple[str, tuple[str, ...]]] = {"shape_of_convolution": (_SHAPE, ())}
"""By name: the text, and the functions that it calls."""
for _activation in ("relu", "elu"):
    for _read in ("uint8_t", "float"):
        CONVOLUTIONS[f"convolve_{_SHORT[_read]}_{_activation}"] = (
            _convolution_f32(_read, _activation), ("shape_of_convolution", f"{_activation}_of"),
        )  # fmt: skip
    for _read in ("uint8_t", "int16_t"):
        CONVOLUTIONS[f"convolve_{_SHORT[_read]}_i8_{_activation}"] = (
            _convolution_i8(_read, _activation), ("shape_of_convolution", f"{_activation}_of", "rounded"),
        )  # fmt: skip
