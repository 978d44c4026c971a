//! The gRPC services: parse, one call of the application, render.

pub mod pb;
