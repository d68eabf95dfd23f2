//! What the programs that torment and measure nodes have in common: a folder for a run's data, an end when asked to,
//! and text in their reports.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{signal, SignalKind};

use crate::error::Error;

/// The folder for a run's data, and whether it was made for this run alone, below the system's folder for temporary
/// files: `given` must not exist yet or be empty, since a run begins with empty disks.
///
/// # Errors
/// If it cannot be made, or holds something.
pub fn data_folder(program: &str, given: Option<&Path>) -> Result<(PathBuf, bool), Error> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    };
    if let Some(dir) = given {
        if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::NotEmpty { dir: dir.to_owned() });
        }
        std::fs::create_dir_all(dir).map_err(failed("make (check --dir)", dir))?;
        // Children work in folders of their own.
        return Ok((dir.canonicalize().map_err(failed("find (check --dir)", dir))?, false));
    }
    let dir = std::env::temp_dir().join(format!("{program}-{}", std::process::id()));
    std::fs::create_dir(&dir).map_err(failed("make (delete it, or name a folder by --dir)", &dir))?;
    Ok((dir, true))
}

/// Returns when the program is asked to end, by SIGINT or SIGTERM.
pub async fn interruption() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => {
            // Without that handler the signal's own effect ends this process.
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

/// Text as it may stand in HTML, between tags or in an attribute's quotes.
#[must_use]
pub fn html_escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let scratch = tempfile::tempdir().expect("a directory");
        let fresh = scratch.path().join("deep/fresh");
        let (dir, own) = data_folder("test", Some(&fresh)).expect("made");
        assert!(dir.is_dir() && !own, "{dir:?}");
        std::fs::write(dir.join("kept"), "x").expect("writable");
        let refused = data_folder("test", Some(&fresh)).expect_err("not empty").to_string();
        assert!(refused.contains("fresh") && refused.contains("--dir"), "{refused}");
    }
}
