//! Which server, and as whom: from options, profiles, the environment and the person.
//!
//! A password is never an argument of the program, where every user of the machine could read it: it comes from the
//! environment (`SKEP_PASSWORD`), a file, or is asked for.
//!
//! # Not here
//! What is said over the connection (`client`).

use std::io::IsTerminal;
use std::path::Path;

use skep_common::{Error, Kind, Result, nearest};
use url::Url;

use crate::args::Args;
use crate::client::{Client, Failure};
use crate::config::{Color, Config, Profile};
use crate::{DEFAULT_URL, Target};

/// Holds the password of whoever does not want to be asked.
const PASSWORD_VARIABLE: &str = "SKEP_PASSWORD";

/// A server and who connects to it.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) target: Target,
    pub(crate) user: Option<String>,
    password: Option<String>,
    /// The name of the profile it came from.
    pub(crate) profile: Option<String>,
    pub(crate) color: Option<Color>,
    schema: Option<String>,
}

impl Login {
    /// What the options say, and the profile that they name.
    ///
    /// # Errors
    /// A profile that there is not, a password where it must not be or that cannot be read.
    pub(crate) fn new(args: &Args, config: &Config, target: Option<Target>) -> Result<Self> {
        let profile = match &args.profile {
            Some(name) => Some(profile(config, name)?),
            None => None,
        };
        if let Some(Target::Url(url)) = &target {
            refuse_password(url)?;
        }
        // A profile that is asked for goes before a URL that is not.
        let target =
            target.filter(|target| profile.is_none_or(|profile| profile.url.is_none()) || asked_for(target));
        let mut login = match (target, profile) {
            (Some(target), _) => Self::of(target),
            (None, Some(profile)) => Self::of(Target::Url(url_of(profile))),
            (None, None) => Self::of(Target::Url(DEFAULT_URL.to_owned())),
        };
        if let Some(profile) = profile {
            login.take(args.profile.as_deref().unwrap_or_default(), profile)?;
        }
        if let Some(user) = &args.user {
            login.user = Some(user.clone());
        }
        if let Some(path) = &args.password_file {
            login.password = Some(first_line(path)?);
        } else if args.password {
            login.password = Some(login.ask()?);
        }
        Ok(login)
    }

    /// Of `\connect`: a URL, or the name of a profile.
    ///
    /// # Errors
    /// As [`Login::new`].
    pub(crate) fn named(text: &str, config: &Config) -> Result<Self> {
        if text.contains("://") {
            if Url::parse(text).is_ok_and(|url| url.password().is_some()) {
                return Err(Error::invalid("the history would keep the password").hint(
                    "leave it out of the URL: it is asked for where it is needed, and a profile may say where it is",
                ));
            }
            return Ok(Self::of(Target::Url(text.to_owned())));
        }
        let profile = profile(config, text)?;
        let mut login = Self::of(Target::Url(url_of(profile)));
        login.take(text, profile)?;
        Ok(login)
    }

    fn of(target: Target) -> Self {
        let password = std::env::var(PASSWORD_VARIABLE).ok().filter(|password| !password.is_empty());
        Self { target, user: None, password, profile: None, color: None, schema: None }
    }

    fn take(&mut self, name: &str, profile: &Profile) -> Result<()> {
        self.profile = Some(name.to_owned());
        self.color = profile.color;
        self.schema.clone_from(&profile.schema);
        self.user.clone_from(&profile.user);
        if let Some(path) = &profile.password_file {
            self.password = Some(first_line(path)?);
        } else if let Some(variable) = &profile.password_env {
            let value = std::env::var(variable).map_err(|e| {
                Error::invalid(format!("profile '{name}' wants its password in '{variable}'")).source(e)
            })?;
            self.password = Some(value);
        } else if profile.password_prompt {
            self.password = Some(self.ask()?);
        }
        Ok(())
    }

    /// The server as people know it.
    pub(crate) fn server(&self) -> String {
        match &self.target {
            Target::Url(url) => without_password(url),
            Target::Channel(_) => "this process".to_owned(),
        }
    }

    fn ask(&self) -> Result<String> {
        let who = self.user.as_deref().map(|user| format!(" of {user}")).unwrap_or_default();
        rpassword::prompt_password(format!("Password{who}: ")).map_err(|e| {
            Error::invalid("the password cannot be asked for")
                .hint(format!("write it into a file, --password-file, or into {PASSWORD_VARIABLE}"))
                .source(e)
        })
    }

    /// Opens a session. Where the server refuses and there is a person without a password, it is asked for once.
    ///
    /// # Errors
    /// Those of [`Client::connect`].
    pub(crate) async fn connect(&mut self) -> std::result::Result<Client, Failure> {
        let mut client = Client::connect(&self.target, self.user.as_deref(), self.password.as_deref()).await;
        let refused = client.as_ref().is_err_and(|failure| failure.error.kind() == Kind::Denied);
        let knows = |url: &Url| !url.username().is_empty();
        let named = self.user.is_some()
            || matches!(&self.target, Target::Url(url) if Url::parse(url).as_ref().is_ok_and(knows));
        if refused && named && self.password.is_none() && std::io::stdin().is_terminal() {
            self.password = Some(self.ask()?);
            client = Client::connect(&self.target, self.user.as_deref(), self.password.as_deref()).await;
        }
        let mut client = client?;
        if let Some(schema) = &self.schema {
            client.execute(&format!("USE \"{}\"", schema.replace('"', "\"\""))).await?;
        }
        Ok(client)
    }
}

fn profile<'a>(config: &'a Config, name: &str) -> Result<&'a Profile> {
    config.profiles.get(name).ok_or_else(|| {
        let error = Error::invalid(format!("there is no profile '{name}'"));
        let known: Vec<&str> = config.profiles.keys().map(String::as_str).collect();
        match nearest(name, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None if known.is_empty() => {
                error.hint("write [profiles.NAME] into $XDG_CONFIG_HOME/skep/shell.toml")
            }
            None => error.hint(format!("profiles are {}", known.join(", "))),
        }
    })
}

fn url_of(profile: &Profile) -> String {
    profile.url.clone().unwrap_or_else(|| DEFAULT_URL.to_owned())
}

/// The first line of a file; `~/` is the person's folder.
fn first_line(path: &Path) -> Result<String> {
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
    let path = match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    };
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Error::invalid(format!("the password in '{}' cannot be read", path.display())).source(e)
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Whether a target was an argument of the program, and not a variable of its environment.
fn asked_for(target: &Target) -> bool {
    match target {
        Target::Url(url) => std::env::args().any(|argument| argument.contains(url)),
        Target::Channel(_) => true,
    }
}

/// Refuses a password that was an argument of the program. From the environment it is fine.
fn refuse_password(url: &str) -> Result<()> {
    let has = Url::parse(url).is_ok_and(|url| url.password().is_some());
    if has && asked_for(&Target::Url(url.to_owned())) {
        return Err(Error::invalid("a password in an argument can be read by every user of the machine").hint(
            format!("leave it out of the URL: --password asks for it, --password-file reads it, {PASSWORD_VARIABLE} may hold it"),
        ));
    }
    Ok(())
}

/// `url` as it may be shown.
pub(crate) fn without_password(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => {
            // Only URLs without a host refuse, and those have no password.
            let _ = parsed.set_password(None);
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("grpc://ada:secret@h:1"), "grpc://ada@h:1");
        assert_eq!(without_password("grpc://ada@h:1"), "grpc://ada@h:1");
        assert_eq!(without_password("nonsense"), "nonsense");
    }

    #[test]
    fn profiles_that_are_not_there_come_with_those_that_are() {
        let mut config = Config::default();
        let hint = |config: &Config, name: &str| {
            Login::named(name, config).err().and_then(|e| e.hint_text().map(str::to_owned)).unwrap()
        };
        assert!(hint(&config, "prod").contains("[profiles.NAME]"));
        config.profiles.insert("prod".into(), Profile { user: Some("ada".into()), ..Profile::default() });
        assert!(hint(&config, "grpc://ada:secret@h:1").contains("leave it out"));
        assert_eq!(hint(&config, "prd"), "did you mean 'prod'?");
        assert_eq!(hint(&config, "elsewhere"), "profiles are prod");
        let login = Login::named("prod", &config).unwrap();
        assert_eq!((login.server().as_str(), login.user.as_deref()), (DEFAULT_URL, Some("ada")));
    }
}
