//! The codec against itself, against hostile documents, and against what known clients send.
