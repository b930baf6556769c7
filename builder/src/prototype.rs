//! A directory as a prototype file, from which `mkfs.xfs` writes it without a
//! mount and without root. See mkfs.xfs(8), `-p`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use contract::text::printable;
use tooling::command::{self, NamespaceRoot, shell};
use tooling::error::Failure;
use xshell::cmd;

/// What `find` prints of each file, a NUL after each field: kind, mode in octal,
/// owner, group, target of a link, path below the tree.
const FIELDS: &str = "%y\\0%m\\0%U\\0%G\\0%l\\0%P\\0";

/// One entry of a directory.
#[derive(Debug, Default)]
struct Node {
    kind: String,
    mode: u32,
    owner: String,
    group: String,
    link: String,
    children: BTreeMap<String, Node>,
}

/// Writes the prototype of `tree`, for an `mkfs.xfs` that runs there: words in it may have no blank,
/// and the path of a checkout may. Device nodes and sockets are left out: a
/// running guest makes its own. Hard links become files of their own.
pub(super) fn write(tree: &Path, prototype: &Path) -> Result<(), Failure> {
    let sh = shell()?;
    let listing = command::read(cmd!(NamespaceRoot(&sh), "find {tree} -printf {FIELDS}"))?;
    let listing = String::from_utf8_lossy(&listing);
    let text = read(&listing).and_then(|root| {
        let mut text = "/\n0 0\n".to_owned();
        describe(&root, Path::new("."), &mut text)?;
        Ok(text)
    });
    let text = text.map_err(|problem| {
        Failure::Infrastructure(format!("{} cannot become an XFS: {problem}.", tree.display()))
    })?;
    fs::write(prototype, text).map_err(|e| Failure::io("write", prototype, e))
}

/// Why a tree cannot be written as a prototype.
#[derive(Debug, thiserror::Error)]
enum PrototypeError {
    #[error("`find` described only a part of a file")]
    Incomplete,
    /// A prototype file is words between blanks.
    #[error("a name with a blank: {}", printable(.0))]
    Blank(String),
    #[error("{path}: the mode `{mode}` is no octal number")]
    Mode { path: String, mode: String },
    #[error("{} is of the kind `{kind}`, which an XFS prototype cannot have", path.display())]
    Kind { path: PathBuf, kind: String },
}

fn read(listing: &str) -> Result<Node, PrototypeError> {
    let mut root = Node::default();
    let fields: Vec<_> = listing.split_terminator('\0').collect();
    for entry in fields.chunks(6) {
        let [kind, mode, owner, group, link, path] = entry else {
            return Err(PrototypeError::Incomplete);
        };
        if [path, link].iter().any(|word| word.contains(char::is_whitespace)) {
            return Err(PrototypeError::Blank((*path).to_owned()));
        }
        let mut node = &mut root;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            node = node.children.entry(name.to_owned()).or_default();
        }
        node.kind = (*kind).to_owned();
        node.mode = u32::from_str_radix(mode, 8)
            .map_err(|_| PrototypeError::Mode { path: (*path).to_owned(), mode: (*mode).to_owned() })?;
        (node.owner, node.group, node.link) = ((*owner).to_owned(), (*group).to_owned(), (*link).to_owned());
    }
    Ok(root)
}

/// Writes one entry: what comes after its name, and for a directory all that is in it.
fn describe(node: &Node, path: &Path, text: &mut String) -> Result<(), PrototypeError> {
    // Set-user-ID, set-group-ID and the permissions are all that there is a letter for.
    let bit = |mask, letter| if node.mode & mask == 0 { '-' } else { letter };
    let (user, group, permissions) = (bit(0o4000, 'u'), bit(0o2000, 'g'), node.mode & 0o777);
    let kind = match node.kind.as_str() {
        "d" => 'd',
        "f" => '-',
        "l" => 'l',
        "p" => 'p',
        other => return Err(PrototypeError::Kind { path: path.to_owned(), kind: other.to_owned() }),
    };
    let Node { owner, group: of, .. } = node;
    // Writing to a string cannot fail.
    let _ = write!(text, "{kind}{user}{group}{permissions:03o} {owner} {of}");
    let _ = match kind {
        '-' => writeln!(text, " {}", path.display()),
        'l' => writeln!(text, " {}", node.link),
        'p' => writeln!(text),
        _ => {
            let _ = writeln!(text);
            let kept = |child: &&Node| !["b", "c", "s"].contains(&child.kind.as_str());
            for (name, child) in node.children.iter().filter(|(_, child)| kept(child)) {
                let _ = write!(text, "{name} ");
                describe(child, &path.join(name), text)?;
            }
            writeln!(text, "$")
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_described_depth_first() {
        let listing = "d\x00755\x000\x000\0\0\0f\x004755\x000\x000\0\0su\0d\x002750\x001\x008\0\0var\0\
             l\x00777\x001\x008\0../run\0var/run\0c\x00666\x000\x000\0\0null\0";
        let mut text = String::new();
        describe(&read(listing).unwrap(), Path::new("/t"), &mut text).unwrap();
        assert_eq!(text, "d--755 0 0\nsu -u-755 0 0 /t/su\nvar d-g750 1 8\nrun l--777 1 8 ../run\n$\n$\n");
    }

    #[test]
    fn the_path_of_a_checkout_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["plain", "my dir, it's", "100% größe"] {
            let tree = dir.path().join(name).join("rootfs");
            fs::create_dir_all(tree.join("etc")).unwrap();
            fs::write(tree.join("etc/hostname"), "guest\n").unwrap();
            let (prototype, image) = (tree.with_file_name("proto"), tree.with_file_name("vda.fs"));
            write(&tree, &prototype).unwrap();
            fs::File::create(&image).and_then(|file| file.set_len(512 << 20)).unwrap();
            let sh = tooling::command::shell_in(&tree).unwrap();
            command::read(cmd!(sh, "mkfs.xfs -q -f -p {prototype} {image}")).unwrap();
        }
    }

    #[test]
    fn a_name_that_falls_apart_is_refused() {
        let problem = read("f\x00644\x000\x000\0\0two words\0").unwrap_err().to_string();
        assert_eq!(problem, "a name with a blank: two words");
    }
}
