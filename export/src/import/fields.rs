//! A JSON config whose every field is read by name, so that an error can say which one is wrong.

use super::ImportError;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// An object in a JSON file.
#[derive(Clone, Debug)]
pub struct Fields {
    path: PathBuf,
    /// Prefix of names in errors, for objects in objects.
    prefix: String,
    object: Map<String, Value>,
}

impl Fields {
    /// Reads a file that must be there.
    ///
    /// # Errors
    /// An absent file, with `hint`; something that is no JSON object.
    pub fn open(path: &Path, hint: &'static str) -> Result<Self, ImportError> {
        let text = std::fs::read(path).map_err(|source| ImportError::read(path, source, hint))?;
        Self::parse(path, &text)
    }

    /// Takes a document out of `path`.
    ///
    /// # Errors
    /// Something that is no JSON object.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ImportError> {
        let object = serde_json::from_slice(text)
            .map_err(|fault| ImportError::file(path, format!("is no JSON object: {fault}")))?;
        Ok(Self {
            path: path.to_owned(),
            prefix: String::new(),
            object,
        })
    }

    /// Reads a file that may be absent.
    ///
    /// # Errors
    /// As [`Fields::open`] where it is there.
    pub fn open_if_there(path: &Path) -> Result<Option<Self>, ImportError> {
        path.exists()
            .then(|| Self::open(path, "check its permissions"))
            .transpose()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A field, if it is there and not null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Names of all fields.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.object.keys().map(String::as_str)
    }

    /// An object in a field, if it is there.
    ///
    /// # Errors
    /// Something else in the field.
    pub fn object(&self, name: &str) -> Result<Option<Self>, ImportError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Self {
                path: self.path.clone(),
                prefix: format!("{}{name}.", self.prefix),
                object: object.clone(),
            })),
            Some(other) => Err(self.wrong(name, format!("is {other}, not an object"))),
        }
    }

    /// An error about a field.
    pub fn wrong(&self, name: &str, what: impl Into<String>) -> ImportError {
        ImportError::field(&self.path, format!("{}{name}", self.prefix), what)
    }

    /// A whole number of at least one.
    ///
    /// # Errors
    /// None there, or something else.
    pub fn size(&self, name: &str) -> Result<u32, ImportError> {
        self.size_or(name, None)
    }

    /// A whole number of at least one, or a default.
    ///
    /// # Errors
    /// Something else, or nothing where there is no default.
    pub fn size_or(&self, name: &str, default: Option<u32>) -> Result<u32, ImportError> {
        let Some(value) = self.get(name) else {
            return default.ok_or_else(|| self.missing(name));
        };
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        number
            .filter(|&n| n > 0)
            .ok_or_else(|| self.wrong(name, format!("is {value}, not a whole number above 0")))
    }

    /// A finite number, or a default.
    ///
    /// # Errors
    /// Something else, or nothing where there is no default.
    pub fn number(&self, name: &str, default: Option<f32>) -> Result<f32, ImportError> {
        let Some(value) = self.get(name) else {
            return default.ok_or_else(|| self.missing(name));
        };
        let number = value.as_f64().map(|x| x as f32);
        number
            .filter(|x| x.is_finite())
            .ok_or_else(|| self.wrong(name, format!("is {value}, not a number")))
    }

    /// A truth value, or a default.
    ///
    /// # Errors
    /// Something else.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ImportError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(name, format!("is {other}, not true or false"))),
        }
    }

    /// A text, if the field is there.
    ///
    /// # Errors
    /// Something else.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ImportError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, format!("is {other}, not a text"))),
        }
    }

    /// Refuses a flag that is set.
    ///
    /// # Errors
    /// The flag, and `why`.
    pub fn refuse_flag(&self, name: &str, why: &str) -> Result<(), ImportError> {
        match self.flag(name, false)? {
            true => Err(self.wrong(name, format!("is true: {why}"))),
            false => Ok(()),
        }
    }

    fn missing(&self, name: &str) -> ImportError {
        self.wrong(name, "is missing: take the checkpoint's own config")
    }
}
