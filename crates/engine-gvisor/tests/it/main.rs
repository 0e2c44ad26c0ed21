//! The engine against the real runsc. Needs root, runsc and nft; says what is missing and passes otherwise.

mod host;
mod http;

mod agent;
mod faults;
mod life;
mod restart;
