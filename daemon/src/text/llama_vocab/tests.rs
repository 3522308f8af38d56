//! Tests of llama.cpp's tokenizers.
