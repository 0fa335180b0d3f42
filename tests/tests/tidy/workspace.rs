//! What the workspace consists of: its source files, its manifests, its module trees.

use super::rust;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 5] = ["target", "__pycache__", "node_modules", "dist", "venv"];

/// A source file, Rust or Python.
pub struct SourceFile {
    /// From the workspace's root, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

impl SourceFile {
    /// Whether it is Python.
    pub fn is_python(&self) -> bool {
        self.path.ends_with(".py")
    }

    /// The name without folder and ending.
    pub fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.split('.').next().unwrap_or(name)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned()
}

/// The text of a file, by its path from the root.
pub fn read(path: &str) -> String {
    let whole = root().join(path);
    fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{}: {error}", whole.display()))
}

/// Every Rust and Python file, sorted by path.
pub fn sources() -> Vec<SourceFile> {
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    paths.sort();
    let ours = paths.into_iter().filter(|path| path.ends_with(".rs") || path.ends_with(".py"));
    ours.map(|path| SourceFile { text: read(&path), path }).collect()
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries.map(|entry| entry.expect("a readable entry")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("a file type");
        if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
            walk(&entry.path(), found);
        } else if kind.is_file() {
            found.push(from_root(&entry.path()));
        }
    }
}

fn from_root(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

/// A crate of the workspace.
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its folder, from the root.
    pub folder: String,
    /// What it depends on to run and to be built.
    pub dependencies: Vec<String>,
    /// What only its tests depend on.
    pub dev_dependencies: Vec<String>,
    /// `path = "…"` of its targets.
    targets: Vec<String>,
}

impl Manifest {
    /// Where the dependencies of a section of the manifest belong: `dependencies`,
    /// `build-dependencies`, `target.'…'.dependencies`, or one of them with `dev-`.
    fn depends_by(&mut self, section: &str) -> &mut Vec<String> {
        let kind = section.rsplit('.').next().unwrap_or(section);
        if kind == "dev-dependencies" { &mut self.dev_dependencies } else { &mut self.dependencies }
    }

    /// The files that rustc is given: named targets, and those that Cargo finds by itself.
    pub fn roots(&self) -> Vec<String> {
        let fixed = ["src/lib.rs", "src/main.rs", "tests/main.rs", "build.rs"].map(str::to_owned);
        let found = ["src/bin", "examples", "benches"].into_iter().flat_map(|folder| {
            let entries = fs::read_dir(root().join(&self.folder).join(folder));
            let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
            names.map(move |name| format!("{folder}/{}", name.to_string_lossy()))
        });
        let all = fixed.into_iter().chain(found).chain(self.targets.iter().cloned());
        let paths: BTreeSet<String> = all.map(|path| format!("{}/{path}", self.folder)).collect();
        let files = paths.into_iter().filter(|path| path.ends_with(".rs"));
        files.filter(|path| root().join(path).is_file()).collect()
    }
}

/// The manifests of all members.
pub fn manifests() -> Vec<Manifest> {
    let workspace = read("Cargo.toml");
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = "));
    let members = members.expect("the workspace names its members in one line");
    let folders = members.split('"').skip(1).step_by(2);
    folders.map(|folder| manifest(folder, &read(&format!("{folder}/Cargo.toml")))).collect()
}

fn manifest(folder: &str, text: &str) -> Manifest {
    let mut section = "";
    let mut found = Manifest {
        name: String::new(),
        folder: folder.to_owned(),
        dependencies: Vec::new(),
        dev_dependencies: Vec::new(),
        targets: Vec::new(),
    };
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_matches(['[', ']']);
            if let Some((kind, name)) = section.rsplit_once('.')
                && kind.ends_with("dependencies")
            {
                found.depends_by(kind).push(name.to_owned());
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        match (section, key) {
            ("package", "name") => found.name = value.to_owned(),
            ("lib" | "bin" | "test" | "bench" | "example", "path") => {
                found.targets.push(value.to_owned());
            }
            (section, key) if section.ends_with("dependencies") => {
                let name = key.split('.').next().unwrap_or(key);
                found.depends_by(section).push(name.to_owned());
            }
            _ => {}
        }
    }
    found
}

/// `a/b/../c` as `a/c`: how the list of all files names it.
fn without_steps_up(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        if name == ".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    names.join("/")
}

/// Every file of the module tree under a root.
pub fn module_files(root_file: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![(root_file.to_owned(), true)];
    while let Some((file, is_root)) = waiting.pop() {
        if !root().join(&file).is_file() || !found.insert(file.clone()) {
            continue;
        }
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let within = match file.strip_suffix("/mod.rs") {
            Some(parent) => parent.to_owned(),
            None if is_root => folder.clone(),
            None => file.trim_end_matches(".rs").to_owned(),
        };
        for (name, path) in rust::modules(&read(&file)) {
            let named = path.map(|path| without_steps_up(&format!("{folder}/{path}")));
            let usual = [format!("{within}/{name}.rs"), format!("{within}/{name}/mod.rs")];
            waiting.extend(named.into_iter().chain(usual).map(|file| (file, false)));
        }
    }
    found
}

#[test]
fn a_manifest_is_read_in_every_spelling() {
    let read = manifest(
        "x",
        "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\n# b = \"1\"\nc = { path = \
         \"y\" }\n[dev-dependencies.d]\nversion = \"1\"\n[target.'cfg(unix)'.dependencies]\ne = \
         \"1\"\n[target.'cfg(unix)'.dev-dependencies]\nf = \
         \"1\"\n[[test]]\nname = \"all\"\npath = \"tests/all.rs\"\n",
    );
    assert_eq!((read.name.as_str(), read.dependencies.join(" ")), ("x", "a c e".to_owned()));
    assert_eq!(read.dev_dependencies, ["d", "f"]);
    assert_eq!(read.targets, ["tests/all.rs"]);
}
