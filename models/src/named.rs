//! Enums whose values are named in configuration and on the command line. strum derives the names;
//! this module adds the error that lists them, and serde's traits with the same names.

/// Implements `ALL` and `name` for an enum, and the error of `FromStr` and serde: `there is no
/// engine "…": choose auto, …`.
///
/// The enum derives `Deserialize`, `Serialize` and strum's `Display`, `EnumString`, `IntoStaticStr`
/// and `VariantArray`, with the attributes that [`crate::device::Precision`] has.
macro_rules! named {
    ($type:ident, $what:literal) => {
        impl $type {
            /// All values, in the order in which errors list them.
            pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

            /// The name in configuration, on the command line and in reports.
            pub fn name(self) -> &'static str {
                self.into()
            }

            fn unknown(name: &str) -> $crate::ModelError {
                let choices: Vec<_> = Self::ALL.iter().map(|value| value.name()).collect();
                $crate::ModelError::unknown($what, name, &choices)
            }
        }

        /// For serde, which reads a name as a string.
        impl TryFrom<String> for $type {
            type Error = $crate::ModelError;

            fn try_from(name: String) -> ::std::result::Result<Self, Self::Error> {
                name.parse()
            }
        }
    };
}

pub(crate) use named;

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};
    use std::str::FromStr;

    use serde::{Serialize, de::DeserializeOwned};

    use crate::ModelError;
    use crate::device::Precision;
    use crate::engine::Engine;
    use crate::stable_diffusion::{Scheduler, VaeTiles};

    /// Asserts that the values have these names everywhere and that the refusal of an unknown name
    /// lists them.
    fn are_named<T>(values: &[T], names: &[&str], refusal: &str)
    where
        T: Copy + Debug + Display + PartialEq + FromStr<Err = ModelError> + Serialize + DeserializeOwned,
    {
        assert_eq!(values.iter().map(T::to_string).collect::<Vec<_>>(), names);
        for (value, name) in values.iter().zip(names) {
            assert_eq!(name.parse::<T>().unwrap(), *value);
            let json = serde_json::to_string(value).unwrap();
            assert_eq!(json, format!("{name:?}"));
            assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *value);
        }
        assert_eq!("other".parse::<T>().unwrap_err().to_string(), refusal);
        assert_eq!(serde_json::from_value::<T>("other".into()).unwrap_err().to_string(), refusal);
    }

    #[test]
    fn enums_have_one_name_in_text_and_in_configuration() {
        are_named(
            Engine::ALL,
            &["auto", "openvino-bf16", "openvino", "onnx", "int8", "candle"],
            r#"there is no engine "other": choose auto, openvino-bf16, openvino, onnx, int8 or candle"#,
        );
        are_named(
            Scheduler::ALL,
            &["ddim", "euler", "euler-ancestral", "dpm-solver++", "unipc"],
            r#"there is no scheduler "other": choose ddim, euler, euler-ancestral, dpm-solver++ or unipc"#,
        );
        are_named(
            Precision::ALL,
            &["f32", "f16", "bf16"],
            r#"there is no precision "other": choose f32, f16 or bf16"#,
        );
        are_named(
            VaeTiles::ALL,
            &["auto", "always", "never"],
            r#"there is no vae_tiles "other": choose auto, always or never"#,
        );
    }
}
