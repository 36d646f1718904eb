"""The emitter of C99: what is computed (plan), in int8 (quantise), again in NumPy (simulate), and as text (source)."""
