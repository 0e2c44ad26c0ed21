//! Progress for a person: a bar on a terminal, plain lines elsewhere (logs, CI).

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::progress::{Progress, Stage, Update};

/// Between two plain lines of the same stage.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// A [`Progress`] on standard error.
pub struct Console {
    title: String,
    output: Output,
}

enum Output {
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

struct Lines {
    started: Instant,
    last: Option<(Stage, Instant)>,
}

impl Console {
    /// `title` stands before every line: what is being built.
    pub fn new(title: impl Into<String>) -> Console {
        let output = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            bar.enable_steady_tick(Duration::from_millis(200));
            Output::Bar(bar)
        } else {
            Output::Lines(Mutex::new(Lines {
                started: Instant::now(),
                last: None,
            }))
        };
        Console {
            title: title.into(),
            output,
        }
    }

    fn bar(&self, bar: &ProgressBar, update: Update<'_>) {
        let template = match update.total {
            Some(_) => "{prefix}: {msg} {wide_bar} {pos}/{len} {elapsed}",
            None => "{prefix}: {msg} {spinner} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(self.title.clone());
        bar.set_message(update.stage.label());
        bar.set_length(update.total.unwrap_or(0));
        bar.set_position(update.done);
        if update.stage == Stage::Done {
            bar.finish_and_clear();
            eprintln!("{}: {}", self.title, update.line);
        }
    }

    fn line(&self, lines: &Mutex<Lines>, update: Update<'_>) {
        let now = Instant::now();
        let mut lines = lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let due = match lines.last {
            Some((stage, at)) => stage != update.stage || now.duration_since(at) >= LINE_EVERY,
            None => true,
        };
        if !due {
            return;
        }
        lines.last = Some((update.stage, now));
        let elapsed = now.duration_since(lines.started).as_secs();
        let count = update
            .total
            .map(|total| format!(" {}/{total}", update.done))
            .unwrap_or_default();
        eprintln!(
            "{} [{elapsed:>3} s] {}{count}: {}",
            self.title,
            update.stage,
            shorten(update.line)
        );
    }
}

impl Progress for Console {
    fn update(&self, update: Update<'_>) {
        match &self.output {
            Output::Bar(bar) => self.bar(bar, update),
            Output::Lines(lines) => self.line(lines, update),
        }
    }
}

/// Keeps a line on one line of a usual terminal.
fn shorten(line: &str) -> &str {
    match line.char_indices().nth(100) {
        Some((end, _)) => &line[..end],
        None => line,
    }
}
