//! Which dialect each database speaks.

use contract::image::Database;

use super::dialect::Dialect;
use super::mysql::Mysql;
use super::postgresql::Postgresql;

/// How this database is spoken to.
pub fn dialect(database: Database) -> &'static dyn Dialect {
    match database {
        Database::Mariadb => &Mysql::MARIADB,
        Database::Mysql => &Mysql::MYSQL,
        Database::Postgresql => &Postgresql,
    }
}
