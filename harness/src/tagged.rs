//! Enums whose records say in their first field which variant they are.

/// Defines an enum that is read and written like serde's internally tagged
/// ones, with unknown fields refused, except that the tag must come first.
///
/// serde's own reader must expect the tag anywhere, so it first copies every
/// record into a tree; with a million of them that is most of the judge's time.
macro_rules! tagged {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident by $tag:literal {
            $(
                $(#[$doc:meta])*
                $variant:ident $({
                    $( $(#[$attribute:meta])* $field:ident: $type:ty, )*
                })?,
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Serialize)]
        #[serde(tag = $tag, rename_all = "snake_case")]
        $vis enum $name {
            $( $(#[$doc])* $variant $({ $( $(#[$attribute])* $field: $type, )* })?, )*
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(rename_all = "snake_case")]
                enum Kind {
                    $( $variant, )*
                }

                struct Visitor;

                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("an object whose first field is `", $tag, "`"))
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        map.next_key_seed($crate::tagged::Tag($tag))?
                            .ok_or_else(|| serde::de::Error::missing_field($tag))?;
                        match map.next_value::<Kind>()? {
                            $( Kind::$variant => {
                                #[derive(Deserialize)]
                                #[serde(deny_unknown_fields)]
                                struct Fields {
                                    $($( $(#[$attribute])* $field: $type, )*)?
                                }
                                let rest = serde::de::value::MapAccessDeserializer::new(map);
                                let Fields { $($( $field, )*)? } = Fields::deserialize(rest)?;
                                Ok($name::$variant { $($( $field, )*)? })
                            } )*
                        }
                    }
                }

                deserializer.deserialize_map(Visitor)
            }
        }
    };
}

pub(crate) use tagged;

/// Reads a field's name and refuses any but this one.
pub(crate) struct Tag(pub(crate) &'static str);

impl<'de> serde::de::DeserializeSeed<'de> for Tag {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl serde::de::Visitor<'_> for Tag {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` as the first field", self.0)
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<(), E> {
        if name == self.0 { Ok(()) } else { Err(E::invalid_value(serde::de::Unexpected::Str(name), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    tagged! {
        #[derive(Debug, PartialEq)]
        enum Thing by "e" {
            Plain,
            WithFields {
                n: u32,
                #[serde(default, skip_serializing_if = "Option::is_none")]
                note: Option<String>,
            },
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let note = Some("a \"quoted\" one\n".to_owned());
        for (thing, json) in [
            (Thing::Plain, r#"{"e":"plain"}"#),
            (Thing::WithFields { n: 1, note: None }, r#"{"e":"with_fields","n":1}"#),
            (Thing::WithFields { n: 1, note }, r#"{"e":"with_fields","n":1,"note":"a \"quoted\" one\n"}"#),
        ] {
            assert_eq!(serde_json::to_string(&thing).unwrap(), json);
            assert_eq!(serde_json::from_str::<Thing>(json).unwrap(), thing);
        }
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        for (json, problem) in [
            (r#"{}"#, "missing field `e`"),
            (r#"[]"#, "an object whose first field is `e`"),
            (r#"{"n":1,"e":"with_fields"}"#, "`e` as the first field"),
            (r#"{"e":"other"}"#, "unknown variant `other`"),
            (r#"{"e":1}"#, ""),
            (r#"{"e":"with_fields"}"#, "missing field `n`"),
            (r#"{"e":"with_fields","n":1,"m":1}"#, "unknown field `m`"),
            (r#"{"e":"with_fields","n":1,"n":1}"#, "duplicate field `n`"),
            (r#"{"e":"with_fields","n":1,"e":"plain"}"#, "unknown field `e`"),
            (r#"{"e":"with_fields","n":-1}"#, "u32"),
            (r#"{"e":"plain","n":1}"#, "unknown field `n`"),
            (r#"{"e":"plain"} "#, ""),
            (r#"{"e":"plain"}{}"#, "trailing"),
        ] {
            match serde_json::from_str::<Thing>(json) {
                Ok(thing) => assert_eq!((json, thing), ("{\"e\":\"plain\"} ", Thing::Plain)),
                Err(error) => assert!(error.to_string().contains(problem), "{json}: {error}"),
            }
        }
    }
}
