//! What crosses HTTP, in OpenAI's words: requests, answers and chunks of streams.
//!
//! Owns names and shapes; the OpenAPI document is made from these types. Members that OpenAI's API
//! has and that change nothing here are left out: unknown members are ignored.

pub mod chat;
pub mod chat_answers;
pub mod completions;
pub mod embeddings;
pub mod input;
pub mod models;
pub mod problem;
pub mod shared;
