//! Who said what: flag over environment over file over default.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use corelane_command::Failure;
use corelane_control::Configured;

use super::settings::{SETTINGS, Setting, SettingArgs, variable};

/// Where a value comes from; its text names the place to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(String),
    Environment(String),
    File { path: PathBuf, line: usize, key: String },
    Default(String),
}

/// A value and who said it.
#[derive(Clone, Debug)]
pub(crate) struct Said<T> {
    pub(crate) value: T,
    pub(crate) source: Source,
}

impl<T> Said<T> {
    /// Whether somebody asked for this value, rather than nobody for another.
    pub(crate) fn is_stated(&self) -> bool {
        !matches!(self.source, Source::Default(_))
    }
}

/// The text of every setting that has one.
#[derive(Debug)]
pub(crate) struct Layers {
    texts: Vec<(&'static str, Said<String>)>,
}

impl Layers {
    /// All layers, the file if a flag or the environment names one.
    pub(crate) fn collect(flags: &SettingArgs) -> Result<Self, Failure> {
        let environment = |key: &str| std::env::var(variable(key)).ok();
        let file = match flags.file() {
            Some(path) => read_file(&path)?,
            None => Vec::new(),
        };
        Ok(Self::merge(flags, environment, file))
    }

    /// A file over the defaults, whatever the flags and the environment say.
    pub(crate) fn of_file(path: &Path) -> Result<Self, Failure> {
        Ok(Self::merge(&SettingArgs::default(), |_| None, read_file(path)?))
    }

    fn merge(
        flags: &SettingArgs,
        environment: impl Fn(&str) -> Option<String>,
        file: Vec<(&str, Said<String>)>,
    ) -> Self {
        let text = |setting: &Setting| {
            let flag = flags.settings.iter().find(|(key, _)| *key == setting.key);
            let flag = flag.map(|(_, value)| Said { value: value.clone(), source: Source::Flag(setting.flag()) });
            let variable =
                || Some(Said { value: environment(setting.key)?, source: Source::Environment(setting.variable()) });
            let line = || file.iter().find(|(key, _)| *key == setting.key).map(|(_, said)| said.clone());
            let default = || Some(Said { value: setting.default?.into(), source: Source::Default(setting.flag()) });
            flag.or_else(variable).or_else(line).or_else(default)
        };
        let texts = SETTINGS.iter().filter_map(|setting| Some((setting.key, text(setting)?))).collect();
        Self { texts }
    }

    /// Every setting in the order of the help, said or not. The path of a secret's file is not included.
    pub(super) fn told(&self) -> Vec<Configured> {
        let told = |setting: &Setting| {
            let said = self.texts.iter().find(|(key, _)| *key == setting.key).map(|(_, said)| said);
            Configured {
                key: setting.key,
                value: said.map(|said| if setting.is_secret { "set".to_owned() } else { said.value.clone() }),
                source: said.map_or("default", |said| said.source.kind()),
            }
        };
        SETTINGS.iter().map(told).collect()
    }

    /// The value of a setting that has a default.
    pub(super) fn parse<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Said<T>, Failure> {
        Ok(self.parse_optional(key, parse)?.expect("every setting without a default is optional"))
    }

    /// The value of a setting, if anybody said one.
    pub(super) fn parse_optional<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Said<T>>, Failure> {
        let Some((_, said)) = self.texts.iter().find(|(known, _)| *known == key) else { return Ok(None) };
        match parse(&said.value) {
            Ok(value) => Ok(Some(Said { value, source: said.source.clone() })),
            Err(why) => Err(Failure::usage(format!("{}: {:?} {why}", said.source, said.value))),
        }
    }
}

/// The settings in a file, each known and a scalar or a list of scalars.
fn read_file(path: &Path) -> Result<Vec<(&'static str, Said<String>)>, Failure> {
    let shown = path.display();
    let text = read_text(path)
        .map_err(|error| Failure::usage(format!("{shown}: {error}; give --config the path of a readable TOML file")))?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|error| Failure::usage(format!("{shown}: not valid TOML: {}", error.to_string().trim_end())))?;
    table.into_iter().map(|(key, value)| read_key(path, &text, &key, &value)).collect()
}

/// Longest configuration file. One with every key is 8 KiB; beyond this it is the wrong file, as a device without end is.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text = format!("is longer than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is not UTF-8"))
}

fn read_key(path: &Path, text: &str, key: &str, value: &toml::Value) -> Result<(&'static str, Said<String>), Failure> {
    let source = Source::File { path: path.into(), line: line_of(text, key), key: key.into() };
    let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
        return Err(Failure::usage(format!("{source}: unknown key{}", nearest(key))));
    };
    let value = scalar(value).ok_or_else(|| {
        Failure::usage(format!(
            "{source}: must be text, a number, or an array of these, as in the help of --{}",
            setting.flag()
        ))
    })?;
    Ok((setting.key, Said { value, source }))
}

/// A value as the flag would have it: lists are joined by commas.
fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(value.to_string()),
        toml::Value::Array(values) => Some(values.iter().map(scalar).collect::<Option<Vec<_>>>()?.join(",")),
        _ => None,
    }
}

/// The line on which a top-level key stands, 1 if it is written in a way that this does not find.
fn line_of(text: &str, key: &str) -> usize {
    let is_key = |line: &str| {
        let line = line.trim_start().trim_start_matches(['"', '\'', '[']);
        line.strip_prefix(key).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    text.lines().position(is_key).map_or(1, |index| index + 1)
}

fn nearest(key: &str) -> String {
    let distance = |setting: &&Setting| strsim::damerau_levenshtein(setting.key, key);
    match SETTINGS.iter().min_by_key(distance) {
        Some(setting) if distance(&setting) <= key.len().max(3) / 2 => format!("; did you mean `{}`?", setting.key),
        _ => format!("; known keys: {}", SETTINGS.iter().map(|setting| setting.key).collect::<Vec<_>>().join(", ")),
    }
}

impl Source {
    fn kind(&self) -> &'static str {
        match self {
            Self::Flag(_) => "flag",
            Self::Environment(_) => "environment",
            Self::File { .. } => "file",
            Self::Default(_) => "default",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) | Self::Default(flag) => write!(f, "--{flag}"),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::File { path, line, key } => write!(f, "{}:{line}: `{key}`", path.display()),
        }
    }
}
