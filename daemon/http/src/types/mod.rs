//! Types of OpenAI's API: requests, responses and chunks of streams.
//!
//! Owns names and shapes, from which the OpenAPI document is made. Fields of OpenAI's API that
//! change nothing here are left out: unknown fields are ignored.

pub mod chat;
pub mod chat_response;
pub mod completions;
pub mod embeddings;
pub mod input;
pub mod models;
pub mod problem;
mod sampling;
pub mod shared;
