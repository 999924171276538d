use crate::Error;

/// What was written as the router's address.
#[derive(Debug, PartialEq)]
pub(crate) enum Addresses {
    /// HOST:PORT each.
    Listed(Vec<String>),
    /// HOST:PORT, whose addresses are all replicas.
    Resolved(String),
    /// A path.
    Unix(String),
}

impl Addresses {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.is_empty() {
                true => Err(wrong(text)),
                false => Ok(Self::Unix(path.to_owned())),
            };
        }
        if let Some(name) = text.strip_prefix("dns:///") {
            return match is_host_and_port(name) {
                true => Ok(Self::Resolved(name.to_owned())),
                false => Err(wrong(text)),
            };
        }
        let all: Vec<_> = text.split(',').map(|each| each.trim().to_owned()).collect();
        match all.iter().find(|each| !is_host_and_port(each)) {
            Some(each) => Err(wrong(each)),
            None => Ok(Self::Listed(all)),
        }
    }
}

fn wrong(found: &str) -> Error {
    let expected = "HOST:PORT with a port from 1 to 65535, several of them with commas between them, \
                    dns:///NAME:PORT or unix:PATH";
    Error::invalid("target", expected, format!("{found:?}"))
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_bare = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && !host.contains(|c: char| ":/@?#[]".contains(c) || c.is_whitespace())
        }
    };
    is_bare && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart() {
        let listed =
            |all: &[&str]| Addresses::Listed(all.iter().map(|each| each.to_string()).collect());
        for (text, expected) in [
            ("127.0.0.1:50051", listed(&["127.0.0.1:50051"])),
            ("a:1, [::1]:2", listed(&["a:1", "[::1]:2"])),
            ("dns:///eldr:50051", Addresses::Resolved("eldr:50051".into())),
            ("dns:50051", listed(&["dns:50051"])),
            ("unix:/run/eldr", Addresses::Unix("/run/eldr".into())),
            ("unix:///run/eldr", Addresses::Unix("/run/eldr".into())),
        ] {
            assert_eq!(Addresses::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn wrong_targets_say_what_was_expected() {
        for text in [
            "",
            "host",
            "host:0",
            "host:70000",
            ":1",
            "a:1,",
            "::1:2",
            "http://a:1",
            "dns:///x",
            "unix:",
        ] {
            let said = Addresses::parse(text).unwrap_err().to_string();
            assert!(said.contains("expected HOST:PORT"), "{text}: {said}");
        }
    }
}
