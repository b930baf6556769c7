//! Image definitions: one small TOML file a distribution under `images/`.
