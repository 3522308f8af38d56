//! What the edges count, and the text it becomes.
