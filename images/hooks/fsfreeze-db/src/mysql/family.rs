//! The kinds of servers that speak this protocol.

/// What a server is, as far as its locks are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// MariaDB from 10.4.1 on: `BACKUP STAGE`.
    Mariadb,
    /// MySQL from 8.0 on: `LOCK INSTANCE FOR BACKUP`, and a log status.
    Mysql,
    /// Older ones of either, which have only FLUSH TABLES WITH READ LOCK.
    OldMariadb,
    OldMysql,
}

impl Family {
    /// By its version, as it says it.
    pub(super) fn of(version: &str) -> Self {
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0_u32);
        let number = (next(), next(), next());
        match (version.contains("MariaDB"), number) {
            (true, (10, 4, 1..) | (10, 5.., _) | (11.., _, _)) => Self::Mariadb,
            (true, _) => Self::OldMariadb,
            (false, (8.., _, _)) => Self::Mysql,
            (false, _) => Self::OldMysql,
        }
    }

    pub(super) fn is_mariadb(self) -> bool {
        matches!(self, Self::Mariadb | Self::OldMariadb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_says_which_locks_there_are() {
        for (version, family) in [
            ("10.4.0-MariaDB", Family::OldMariadb),
            ("10.4.1-MariaDB-log", Family::Mariadb),
            ("10.11.14-MariaDB-0+deb12u2", Family::Mariadb),
            ("11.8.3-MariaDB-0+deb13u1 from Debian", Family::Mariadb),
            ("12.0.2-MariaDB", Family::Mariadb),
            ("10.3.39-MariaDB", Family::OldMariadb),
            ("5.7.44-log", Family::OldMysql),
            ("8.0.43-0ubuntu0.24.04.1", Family::Mysql),
            ("9.7.0", Family::Mysql),
        ] {
            assert_eq!(Family::of(version), family, "{version}");
        }
    }
}
