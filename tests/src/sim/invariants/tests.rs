//! Each invariant has one planted State or history that violates it.
