//! What a client is told when its sandbox goes away.

use dormouse_control::Phase;

use crate::sandbox::OpenSandbox;

/// The last words about a sandbox whose run has ended.
pub(crate) fn farewell(sandbox: &OpenSandbox) -> String {
    words(sandbox.id.as_str(), sandbox.phase())
}

fn words(id: &str, phase: Option<Phase>) -> String {
    match phase {
        None => format!("sandbox {id} was killed or has reached its end"),
        Some(Phase::Pausing | Phase::Paused) => {
            format!("sandbox {id} went to sleep with everything that runs in it; connect again to wake it")
        }
        Some(_) => format!("sandbox {id} was restarted; connect again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_death_are_told_apart() {
        assert!(words("i0", Some(Phase::Paused)).contains("went to sleep"));
        assert!(words("i0", None).contains("was killed"));
    }
}
