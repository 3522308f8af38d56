//! llama.cpp's calls that can throw, with their exceptions caught on the C++ side.
