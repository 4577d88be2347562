//! hayloft
