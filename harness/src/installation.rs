//! Where Java and ZooKeeper's jars are.

use crate::process::find_program;
use crate::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const DEBIAN_JAR: &str = "/usr/share/java/zookeeper.jar";
// Debian's class path has no logger in it; with this one the server's log reaches its error output.
const DEBIAN_LOGGER: &str = "/usr/share/java/slf4j-simple.jar";
const HOME_VARIABLE: &str = "ZOOKEEPER_HOME";

/// A ZooKeeper that can be started here: a Java runtime and a class path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    java: PathBuf,
    class_path: OsString,
}

impl Installation {
    /// The jars below `home`, or in `home/lib`.
    ///
    /// # Errors
    /// [`Error::NoJava`], or [`Error::NoJars`] if there is no ZooKeeper in that folder.
    pub fn below(home: &Path) -> Result<Self, Error> {
        let java = java()?;
        let no_jars = || Error::NoJars { home: home.to_owned() };
        let home = home.canonicalize().map_err(|_| no_jars())?;
        let folders: Vec<PathBuf> = [home.clone(), home.join("lib")].into_iter().filter(|dir| has_jar(dir)).collect();
        if folders.is_empty() {
            return Err(no_jars());
        }
        // An unpacked release keeps its logger's settings in `conf`; without them it logs everything. Java expands `*`.
        let parts = std::iter::once(home.join("conf")).chain(folders.into_iter().map(|dir| dir.join("*")));
        let class_path = std::env::join_paths(parts).map_err(|_| no_jars())?;
        Ok(Self { java, class_path })
    }

    /// Debian's package `zookeeper`.
    ///
    /// # Errors
    /// [`Error::NoJava`], or [`Error::NoDebianPackage`] if it is not installed.
    pub fn debian() -> Result<Self, Error> {
        let jar = Path::new(DEBIAN_JAR);
        if !jar.is_file() {
            return Err(Error::NoDebianPackage { path: jar.to_owned() });
        }
        // The jar's manifest names the jars it needs.
        let mut class_path = OsString::from(DEBIAN_JAR);
        if Path::new(DEBIAN_LOGGER).is_file() {
            class_path.push(":");
            class_path.push(DEBIAN_LOGGER);
        }
        Ok(Self { java: java()?, class_path })
    }

    /// `home` if given, else what `ZOOKEEPER_HOME` names, else Debian's.
    ///
    /// # Errors
    /// As [`Installation::below`] and [`Installation::debian`].
    pub fn find(home: Option<&Path>) -> Result<Self, Error> {
        match home.map(Path::to_owned).or_else(named_by_environment) {
            Some(home) => Self::below(&home),
            None => Self::debian(),
        }
    }

    /// What tests run on: Debian's, and beside it what `ZOOKEEPER_HOME` names, if it is set.
    ///
    /// # Errors
    /// As [`Installation::below`] and [`Installation::debian`]: nothing is skipped because it is missing.
    pub fn every() -> Result<Vec<Self>, Error> {
        let mut all = vec![Self::debian()?];
        if let Some(home) = named_by_environment() {
            all.push(Self::below(&home)?);
        }
        Ok(all)
    }

    /// The Java program.
    pub fn java(&self) -> &Path {
        &self.java
    }

    /// The class path to give to Java.
    pub fn class_path(&self) -> &std::ffi::OsStr {
        &self.class_path
    }
}

fn named_by_environment() -> Option<PathBuf> {
    std::env::var_os(HOME_VARIABLE).filter(|home| !home.is_empty()).map(PathBuf::from)
}

fn java() -> Result<PathBuf, Error> {
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    home.filter(|java| java.is_file()).or_else(|| find_program("java")).ok_or(Error::NoJava)
}

fn has_jar(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name == "zookeeper.jar"
            || name
                .strip_prefix("zookeeper-")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.ends_with(".jar"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_jars_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("temporary folders can be made");
        let error = Installation::below(dir.path()).expect_err("the folder is empty");
        assert!(matches!(&error, Error::NoJars { home } if home == dir.path()), "{error:?}");
        assert!(error.to_string().contains("ZOOKEEPER_HOME"), "{error}");
    }

    #[test]
    fn a_missing_folder_is_refused_by_its_name() {
        let error = Installation::below(Path::new("/nowhere/at/all")).expect_err("there is no such folder");
        assert!(error.to_string().contains("/nowhere/at/all/lib"), "{error}");
    }
}
