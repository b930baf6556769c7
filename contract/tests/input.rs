//! What people write into scenarios, image definitions and layers is refused in a sentence that names file,
//! line and key and says what the value must be: for every key of every table.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use contract::image::{Definition, Layer};
use contract::scenario::Scenario;
use toml::{Table, Value};

/// Every key of a scenario. These texts need not be valid as a whole: shape comes before meaning.
const SCENARIO: &str = r#"
summary = "A quiet day"
covers = ["D01"]
restore = "boot"
[image]
database = ["mariadb"]
release = ["bookworm"]
disks = "split"
[load]
profile = "durable"
writers = 4
rate = 100
seconds = 3.5
data_mib = 64
[snapshot]
method = "external"
apart_ms = 300
cycles = 2
[quiesce]
freeze = true
[[fault]]
at = "after-boot"
guest = "true"
host = "true"
tool = "SIGINT"
[backup]
name = "own"
version = "own -V"
backup = "own backup"
restore = "own restore"
backups = 2
backup_seconds = 60
restore_seconds = 60
scratch_mib = 4
needs = ["sh"]
[expect.none]
grade = ["inconsistent"]
findings = ["tables-closed"]
one_of = ["tables-closed"]
within_s = 2.5
writable = true
"#;

/// Every key of an image definition.
const DEFINITION: &str = r#"
summary = "Test"
unverified = "for no reason"
family = "deb"
distro = "debian"
release = "bookworm"
mirror = "https://example.org/"
security_updates = true
database = "mariadb"
channel = "virtio-serial"
packages = ["cron"]
memory_mib = 512
cpu = "max"
[[repository]]
name = "base"
url = "https://example.org/os/"
key = "https://example.org/KEY"
[[mask]]
unit = "apt-daily.timer"
reason = "noise"
[cloud_image]
url = "https://example.org/disk.qcow2"
file = "disk.qcow2"
sha256 = "00"
size_mib = 4096
[existing]
file = "disk.qcow2"
password_file = "password"
agent_version = "7.2"
server_version = "10.11"
[existing.agent]
unit = "qemu-guest-agent.service"
hook = "/etc/qemu/fsfreeze-hook"
enabled_by = "/etc/default/qemu-guest-agent"
[existing.server]
unit = "mariadb.service"
binlogs = "/var/lib/mysql"
port = 3306
user = "load"
[[disk]]
target = "vda"
size_mib = 2048
mount = "/"
fs = "ext4"
group = "data"
[[disk.volume]]
name = "tables"
mount = "/srv"
fs = "xfs"
size_mib = 512
[[loop]]
file = "/srv/loop"
mount = "/mnt"
fs = "btrfs"
size_mib = 512
[[bind]]
from = "/srv"
mount = "/mnt"
"#;

/// Every key of a layer.
const LAYER: &str = r#"
packages = ["cron"]
kernel = ["linux-image-amd64"]
[[argument]]
value = "quiet"
reason = "noise"
[[mask]]
unit = "apt-daily.timer"
reason = "noise"
[agent]
unit = "qemu-guest-agent.service"
hook = "/etc/qemu/fsfreeze-hook"
enabled_by = "/etc/default/qemu-guest-agent"
[server]
unit = "mariadb.service"
binlogs = "/var/lib/mysql"
port = 3306
user = "load"
[mariadb]
packages = ["mariadb-server"]
unit = "mariadb.service"
[mysql]
packages = ["mysql-server"]
unit = "mysql.service"
[postgresql]
packages = ["postgresql"]
unit = "postgresql.service"
"#;

/// A way to read a file, which returns the refusal.
type Read = fn(&Path) -> String;

const FORMATS: [(&str, Read); 3] = [
    (SCENARIO, |path| Scenario::read(path.parent().unwrap(), path).unwrap_err().to_string()),
    (DEFINITION, |path| Definition::read(path).unwrap_err().to_string()),
    (LAYER, |path| Layer::read(path).unwrap_err().to_string()),
];

/// Visits every table of a document, and of the first table of each list of tables.
fn each_table(document: &mut Table, visit: &mut dyn FnMut(&[String], &mut Table), at: &mut Vec<String>) {
    visit(at, document);
    for (key, value) in document.iter_mut() {
        at.push(key.clone());
        if let Some(table) = table_of(value) {
            each_table(table, visit, at);
        }
        at.pop();
    }
}

fn table_of(value: &mut Value) -> Option<&mut Table> {
    match value {
        Value::Table(table) => Some(table),
        Value::Array(items) => items.first_mut()?.as_table_mut(),
        _ => None,
    }
}

/// The document with one value replaced or added.
fn changed(text: &str, at: &[String], key: &str, value: Value) -> String {
    let mut document: Table = text.parse().unwrap();
    let mut table = &mut document;
    for step in at {
        table = table_of(&mut table[step]).unwrap();
    }
    table.insert(key.to_owned(), value);
    toml::to_string(&document).unwrap()
}

/// Values that cannot stand in the place of this one.
fn wrong_values(right: &Value) -> Vec<Value> {
    let text = || Value::String("six".to_owned());
    match right {
        Value::String(_) => vec![Value::Integer(6), Value::Array(vec![])],
        Value::Integer(_) => vec![text(), Value::Integer(-1), Value::Integer(i64::MAX)],
        Value::Float(_) => vec![text(), Value::Float(-1.5), Value::Float(1e9)],
        Value::Array(items) if items[0].is_str() => vec![text(), Value::Array(vec![Value::Integer(6)])],
        Value::Boolean(_) | Value::Array(_) | Value::Table(_) | Value::Datetime(_) => vec![text()],
    }
}

/// Reads a text, and returns the refusal and the line of the text that it names.
fn refused(read: Read, text: &str) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a-test.toml");
    fs::write(&path, text).unwrap();
    let refusal = read(&path);
    let place = refusal.strip_prefix(&format!("{}:", path.display())).unwrap_or_else(|| panic!("{refusal}"));
    let (line, message) = place.split_once(": ").unwrap();
    let line = text.lines().nth(line.parse::<usize>().unwrap() - 1).unwrap();
    (message.to_owned(), line.to_owned())
}

#[test]
fn a_wrong_value_is_refused_with_what_it_must_be() {
    for (text, read) in FORMATS {
        let mut cases = Vec::new();
        each_table(
            &mut text.parse().unwrap(),
            &mut |at, table| {
                for (key, right) in table.iter() {
                    cases.extend(
                        wrong_values(right).into_iter().map(|wrong| (at.to_vec(), key.clone(), wrong)),
                    );
                }
            },
            &mut Vec::new(),
        );
        assert!(cases.len() > 20);
        for (at, key, wrong) in cases {
            let number = matches!(&wrong, Value::Integer(n) if *n != 6) || wrong.is_float();
            let (message, line) = refused(read, &changed(text, &at, &key, wrong));
            let case = format!("{at:?} {line}: {message}");
            let must_be =
                message.strip_prefix(&format!("`{key}` must be ")).unwrap_or_else(|| panic!("{case}"));
            let (expected, value) = must_be.strip_suffix('.').unwrap().rsplit_once(", not ").unwrap();
            assert!(line.starts_with(&format!("{key} = ")) && line.contains(value), "{case}");
            assert!(!number || expected.contains("number from "), "{case}");
            let plain = ["text in quotes", "`true` or `false`", "a list", "a table"].contains(&expected);
            let listed = expected.starts_with('`') || expected.starts_with("one of `");
            assert!(plain || listed || expected.contains("number from "), "{case}");
        }
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_keys_that_exist() {
    for (text, read) in FORMATS {
        let mut tables = Vec::new();
        let mut note = |at: &[String], table: &mut Table| {
            tables.push((at.to_vec(), table.keys().cloned().collect::<BTreeSet<_>>()));
        };
        each_table(&mut text.parse().unwrap(), &mut note, &mut Vec::new());
        // The keys below `expect` are hooks.
        for (at, keys) in tables.into_iter().filter(|(at, _)| *at != ["expect"]) {
            let (message, line) = refused(read, &changed(text, &at, "other", Value::Integer(1)));
            assert_eq!(line, "other = 1", "{at:?}: {message}");
            let listed = message.strip_prefix("there is no key `other` here. The keys are ").unwrap();
            let listed: BTreeSet<_> = listed.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            assert_eq!(listed, keys, "{at:?}: the texts of this test have every key");
        }
    }
}
