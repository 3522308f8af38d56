//! Tests of the llama.cpp engine.
