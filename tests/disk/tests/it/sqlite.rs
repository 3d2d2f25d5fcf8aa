//! SQLite in WAL mode keeps what it committed, unless its syncs are ignored.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use unprompt_test_disk::{Disk, Survivors};

use crate::{disk, python};

/// Commits numbers from 0, one a transaction, and prints each afterwards, until it is killed.
const COMMIT: &str = "
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute('PRAGMA journal_mode=WAL')
database.execute('PRAGMA synchronous=FULL')
database.execute('PRAGMA wal_autocheckpoint=50')
database.execute('CREATE TABLE numbers (number INTEGER, filler BLOB)')
for number in range(1_000_000):
    database.execute('INSERT INTO numbers VALUES (?, zeroblob(3000))', (number,))
    print(number, flush=True)
";

/// Prints how many consecutive numbers from 0 are stored. Fails on a gap or a damaged database.
const COUNT: &str = "
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
assert database.execute('PRAGMA integrity_check').fetchall() == [('ok',)]
numbers = [row[0] for row in database.execute('SELECT number FROM numbers ORDER BY number')]
assert numbers == list(range(len(numbers))), numbers
print(len(numbers))
";

/// Cuts the power after `commits`. Returns those acknowledged before, and those found afterwards;
/// `None` if the database cannot be read then.
fn commits_over_cut(disk: &mut Disk, commits: usize, survivors: Survivors) -> Option<(usize, Option<usize>)> {
    let path = disk.path().join("db");
    let mut child = python(COMMIT, &[&path])?.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let before = lines.by_ref().take(commits).count();
    disk.cut_power(survivors);
    // Lines that the process wrote before it met the cut were acknowledged too.
    let acknowledged = before + lines.count();
    child.wait().unwrap();
    disk.restore().unwrap();
    let counted = python(COUNT, &[&path])?.output().unwrap();
    let found = counted.status.success().then(|| String::from_utf8(counted.stdout).unwrap());
    Some((acknowledged, found.map(|found| found.trim().parse().unwrap())))
}

#[test]
fn sqlite_keeps_each_commit_whatever_else_survives() {
    let random = (0..4).map(|seed| Survivors::Some { seed });
    for (round, survivors) in [Survivors::OnlySynced].into_iter().chain(random).enumerate() {
        let Some(mut disk) = disk() else { return };
        let Some((acknowledged, found)) = commits_over_cut(&mut disk, 90 + 7 * round, survivors) else {
            return;
        };
        let found = found.expect("the database is whole");
        // A commit may be durable and not acknowledged yet.
        assert!((acknowledged..=acknowledged + 1).contains(&found), "{found} of {acknowledged} commits");
        assert!(disk.syncs_of("/db-wal") as usize >= acknowledged);
    }
}

#[test]
fn sqlite_loses_commits_if_syncs_of_its_log_are_ignored() {
    let Some(mut disk) = disk() else { return };
    disk.ignore_syncs_of("-wal");
    let Some((acknowledged, found)) = commits_over_cut(&mut disk, 90, Survivors::OnlySynced) else { return };
    assert!(acknowledged >= 90);
    assert!(found.is_none_or(|found| found < acknowledged), "all {acknowledged} commits are there");
}
