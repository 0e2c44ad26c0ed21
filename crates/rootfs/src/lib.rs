//! Root trees on disk: directories that are put together from layers.
//!
//! A *layer* is a directory in the form that Linux's overlayfs gives to its upper directory: what is new or changed, character
//! devices 0/0 for what was removed, an attribute on directories that hide what lies below them. A *tree* is the whole.
//!
//! - [`overlay`] mounts layers one over the other, and gives a function the merged view of them to work in.
//! - [`unpack`] applies a tar stream from outside to a directory: the changes of an OCI layer, or a user's files.
//! - [`merge`] makes a tree of layers out of hard links.
//! - [`confined`] looks names up inside a tree as if the tree were the root directory: no name leads out of it.
//! - [`users`] reads the user database of a tree.
//! - [`usage`] counts.
//!
//! The content of a tree is written by strangers. Whatever here follows a name in it does so with [`confined`].
#![forbid(unsafe_code)]

pub mod confined;
pub mod merge;
pub mod overlay;
pub mod unpack;
pub mod usage;
pub mod users;
