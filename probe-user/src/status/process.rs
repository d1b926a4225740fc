//! What becomes of one process, for people.

use std::fmt::Write as _;

use super::{
    Asked, Fate, Target,
    table::{place, table},
};
use crate::words::printable;

/// The answer; `target` if it is traced.
pub(super) fn text(asked: &Asked, target: Option<&Target>) -> String {
    let Asked {
        pid,
        exe,
        fate,
        why,
        connections,
    } = asked;
    let mut text = String::new();
    let mut line = |what: &str, words: &str| {
        let _infallible = writeln!(text, "{what:<11} {}", printable(words));
    };
    let exe = exe.as_ref().map(|exe| format!(", {exe}"));
    line("process", &format!("{pid}{}", exe.unwrap_or_default()));
    let verdict = match fate {
        Fate::NotThere => "no",
        Fate::Traced => "yes",
        Fate::Waits => "not yet: it is looked at again within seconds",
        Fate::Refused => "it is selected, and cannot be traced",
        Fate::NotMeant => "no, it is not selected",
        Fate::Excluded => "no, it is left out",
    };
    line("traced", verdict);
    line("because", why);
    let Some(target) = target else {
        return text;
    };
    line("service", &target.service);
    line("instance", &target.instance);
    line("where", &place(target));
    line("parts", &target.parts.join(", "));
    line("hooks", &target.hooks.to_string());
    for missing in &target.missing {
        let words = format!("{} at {}: {}", missing.program, missing.symbol, missing.reason);
        line("lacks", &format!("{words} -> {}", missing.loss));
    }
    if connections.is_empty() {
        line("connections", "none that it has opened is open");
        return text;
    }
    let rows: Vec<_> = connections
        .iter()
        .map(|connection| {
            let headers = if connection.gets_headers {
                "yes"
            } else {
                "no: not enrolled"
            };
            [
                connection.peer.clone(),
                connection.local.clone(),
                headers.to_owned(),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(["CONNECTED TO", "FROM", "GETS HEADERS"], &rows, false));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Connection;

    fn asked(fate: Fate, why: &str) -> Asked {
        Asked {
            pid: 12,
            exe: Some("/srv/shop/gateway".into()),
            fate,
            why: why.into(),
            connections: Vec::new(),
        }
    }

    #[test]
    fn why_a_process_is_not_traced() {
        assert_eq!(
            text(
                &asked(Fate::Excluded, "the rule in skyprobe.yaml:3 excludes it"),
                None
            ),
            "process     12, /srv/shop/gateway\n\
             traced      no, it is left out\n\
             because     the rule in skyprobe.yaml:3 excludes it\n"
        );
    }

    #[test]
    fn a_path_commands_no_terminal() {
        let asked = Asked {
            exe: Some("/tmp/\x1b]52;c\ntraced      yes".to_owned()),
            ..Asked::default()
        };
        let text = text(&asked, None);
        assert!(!text.contains('\x1b'), "{text:?}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn what_a_traced_one_has() {
        let connection = |gets_headers| Connection {
            local: "10.0.0.1:4000".into(),
            peer: "10.0.0.2:80".into(),
            gets_headers,
        };
        let asked = Asked {
            connections: vec![connection(true), connection(false)],
            ..asked(Fate::Traced, "`exe` includes it")
        };
        let target = Target {
            pid: 12,
            service: "gateway".into(),
            instance: "gateway-1".into(),
            hooks: 40,
            parts: vec!["HTTP server".into()],
            unit: Some("gateway.service".into()),
            ..Target::default()
        };
        assert_eq!(
            text(&asked, Some(&target)),
            "process     12, /srv/shop/gateway\n\
             traced      yes\n\
             because     `exe` includes it\n\
             service     gateway\n\
             instance    gateway-1\n\
             where       gateway.service\n\
             parts       HTTP server\n\
             hooks       40\n\
             \n\
             CONNECTED TO  FROM           GETS HEADERS\n\
             10.0.0.2:80   10.0.0.1:4000  yes\n\
             10.0.0.2:80   10.0.0.1:4000  no: not enrolled\n"
        );
    }
}
