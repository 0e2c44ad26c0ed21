//! `.dockerignore`: patterns of what is not part of the context. Later lines win; a `!` takes something back.

use std::path::Path;

use anyhow::Context as _;
use globset::{GlobBuilder, GlobMatcher};

/// The patterns of a context.
#[derive(Debug, Default)]
pub(crate) struct Ignored {
    patterns: Vec<(GlobMatcher, bool)>,
}

impl Ignored {
    /// Reads the file of a context, if it has one.
    ///
    /// # Errors
    /// The file cannot be read, or a pattern is malformed.
    pub(crate) fn of(context: &Path) -> anyhow::Result<Self> {
        let path = context.join(".dockerignore");
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("Cannot read {}", path.display())),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut patterns = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let line = line.trim();
            let (line, ignore) = match line.strip_prefix('!') {
                Some(line) => (line.trim(), false),
                None => (line, true),
            };
            let line = line.trim_start_matches("./").trim_matches('/');
            if line.is_empty() {
                continue;
            }
            let glob = GlobBuilder::new(line)
                .literal_separator(true)
                .build()
                .with_context(|| format!("The pattern `{line}` in .dockerignore is malformed"))?;
            patterns.push((glob.compile_matcher(), ignore));
        }
        Ok(Self { patterns })
    }

    /// Whether a path of the context is left out: by its own name, or because a directory above it is.
    pub(crate) fn leaves_out(&self, path: &Path) -> bool {
        let mut left_out = false;
        for (pattern, ignore) in &self.patterns {
            if path.ancestors().any(|part| pattern.is_match(part)) {
                left_out = *ignore;
            }
        }
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_patterns_win_and_directories_take_all_below() {
        let ignored = Ignored::parse("# comment\nnode_modules\n*.log\n!keep.log\n/build/\n**/cache\n").unwrap();
        for path in ["node_modules", "node_modules/a/b", "x.log", "build/x", "a/b/cache/c"] {
            assert!(ignored.leaves_out(Path::new(path)), "{path}");
        }
        for path in ["keep.log", "a/x.log", "src/main.rs", "a/node_modules"] {
            assert!(!ignored.leaves_out(Path::new(path)), "{path}");
        }
        assert!(Ignored::parse("[").is_err());
    }
}
