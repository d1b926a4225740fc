//! The manual page: one for all commands, its options from what the program says of its flags.

use clap::CommandFactory as _;
use clap_mangen::Man;
use roff::{Inline, Roff, bold, italic, roman};

use super::{flags::CommandLine, key::Key};

/// The sections before the options.
const DESCRIPTION: &[&str] = &[
    "skyprobe traces Go services that talk HTTP and gRPC from outside, by eBPF: programs that nobody rebuilt, \
     reconfigured or restarted. It finds which outgoing call belongs to which incoming request, carries the trace to \
     the next service in SkyWalking's sw8 header, and reports segments to a SkyWalking OAP, or draws the traces in the \
     terminal.",
    "What is traced is said by --pid, --exe, --port or --all-go, in any mix, or by rules in the configuration file. \
     Processes that start later and fit are picked up, too. Nothing is written into the memory of a traced program, \
     and when the probe ends, however it ends, the programs go on.",
    "It is run as root, or with the capabilities CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH and CAP_LEASE. \
     What works on a machine is said by skyprobe doctor.",
];

const EXAMPLES: &[(&str, &str)] = &[
    (
        "skyprobe run --exe '/srv/shop/*'",
        "Draws the traces of these programs in the terminal, until Ctrl-C.",
    ),
    (
        "skyprobe run --all-go --oap oap.example:11800",
        "Sends the traces of every Go program to SkyWalking.",
    ),
    (
        "skyprobe run --port 8080 --export json | jq .",
        "One finished segment a line.",
    ),
    (
        "skyprobe inspect /srv/shop/gateway",
        "What could be traced in a program, without touching it.",
    ),
    (
        "skyprobe check /etc/skyprobe/skyprobe.yaml",
        "What the service would trace of what runs now.",
    ),
    (
        "eval \"$(skyprobe completions bash)\"",
        "Completes the command line in this shell; the Debian package has that done for bash, zsh and fish.",
    ),
];

const FILES: &[(&str, &str)] = &[
    (
        "/etc/skyprobe/skyprobe.yaml",
        "The configuration of the service. It is read anew when it changes: what selects and what names is taken over, \
         the rest counts from the next start on. All keys stand in /usr/share/doc/skyprobe/skyprobe.yaml.",
    ),
    (
        "/etc/default/skyprobe",
        "Variables of the service's environment, if there is one, such as a token.",
    ),
    (
        "/run/skyprobe/status.sock",
        "Where skyprobe status asks the probe that runs.",
    ),
];

const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGTERM, SIGINT",
        "What is under way is reported, what was lost is said with its reasons, and the hooks are taken out.",
    ),
    ("SIGHUP", "The configuration file is read anew."),
];

const EXIT_STATUS: &[(&str, &str)] = &[
    (
        "0",
        "All went as it should; run: a signal came, or the processes it was for have all ended.",
    ),
    (
        "1",
        "It could not be done, for the reason that was said; doctor: nothing can be traced on this machine.",
    ),
    (
        "2",
        "The command line, the environment or the configuration file is wrong.",
    ),
];

/// What the environment says besides the settings.
const OTHER_VARIABLES: &[(&str, &str)] = &[
    (
        "NO_COLOR",
        "If it is set, text has no colours, unless they are asked for.",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        "What systemd sets: it is told when the probe is ready, and as long as it is well.",
    ),
];

fn page() -> String {
    let command = CommandLine::command();
    let mut page = Page::default();
    let man = Man::new(command.clone())
        // None, as the same program gives the same page; nothing at all would be left out, and what follows counted so.
        .date(" ")
        .source(concat!("skyprobe ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    page.add(|text| man.render_title(text));
    page.add(|text| man.render_name_section(text));
    page.section("SYNOPSIS");
    for (index, line) in synopsis(&command).into_iter().enumerate() {
        page.lines(|roff| {
            if index > 0 {
                roff.control("br", []);
            }
            roff.text(line);
        });
    }
    page.section("DESCRIPTION");
    for text in DESCRIPTION {
        page.paragraph(text);
    }
    page.section("COMMANDS");
    for command in command.get_subcommands() {
        page.item(command.get_name(), &said(command.get_about()));
    }
    for command in command.get_subcommands() {
        page.options(command);
    }
    page.section("ENVIRONMENT");
    page.paragraph(
        "Settings of run that SkyWalking's own agents have as well are read from their variables. A flag comes before \
         its variable, that before the configuration file. Of several variables the first that is set counts.",
    );
    for key in Key::ALL {
        let names = key.environment();
        if names.is_empty() {
            continue;
        }
        let meaning = if key == Key::Authentication {
            "The token that each call to the OAP carries; for a file that holds it there is --authentication-file."
                .to_owned()
        } else {
            format!("As {}.", key.flag())
        };
        page.item(&names.join(", "), &meaning);
    }
    page.items(OTHER_VARIABLES);
    for (title, items) in [
        ("FILES", FILES),
        ("SIGNALS", SIGNALS),
        ("EXIT STATUS", EXIT_STATUS),
        ("EXAMPLES", EXAMPLES),
    ] {
        page.section(title);
        page.items(items);
    }
    page.section("SEE ALSO");
    page.lines(|roff| {
        roff.text([
            bold("systemctl"),
            roman("(1), "),
            bold("bpf"),
            roman("(2), "),
            bold("capabilities"),
            roman("(7)"),
        ]);
    });
    page.paragraph("The documentation in /usr/share/doc/skyprobe; https://skywalking.apache.org/.");
    page.text
}

/// Each command's line: what it must have, and that it takes options.
fn synopsis(command: &clap::Command) -> Vec<Vec<Inline>> {
    let line = |command: &clap::Command| {
        let mut line = vec![bold("skyprobe "), bold(command.get_name())];
        if command.get_opts().next().is_some() {
            line.extend([roman(" ["), italic("options"), roman("]")]);
        }
        for argument in command.get_positionals() {
            let names = argument.get_value_names().unwrap_or_default();
            line.push(roman(" "));
            line.push(italic(names.join(" ")));
        }
        line
    };
    let mut lines: Vec<_> = command.get_subcommands().map(line).collect();
    lines.push(vec![
        bold("skyprobe "),
        bold("--help"),
        roman(" | "),
        bold("--version"),
    ]);
    lines
}

fn said(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// The page as far as it is written.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// What is rendered, without what stands before each piece to set up quotes, but the first time.
    fn add(&mut self, render: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) {
        let mut piece = Vec::new();
        render(&mut piece).unwrap();
        let is_first = self.text.is_empty();
        for line in String::from_utf8(piece).unwrap().lines() {
            if is_first || !line.starts_with(".ie \\n(.g") && !line.starts_with(".el .ds Aq") {
                self.text.push_str(line);
                self.text.push('\n');
            }
        }
    }

    fn lines(&mut self, write: impl FnOnce(&mut Roff)) {
        let mut roff = Roff::new();
        write(&mut roff);
        self.add(|text| roff.to_writer(text));
    }

    fn section(&mut self, title: &str) {
        self.lines(|roff| {
            roff.control("SH", [title]);
        });
    }

    fn paragraph(&mut self, text: &str) {
        self.lines(|roff| {
            roff.control("PP", []).text([roman(text)]);
        });
    }

    fn item(&mut self, name: &str, meaning: &str) {
        self.lines(|roff| {
            roff.control("TP", []).text([bold(name)]).text([roman(meaning)]);
        });
    }

    fn items(&mut self, items: &[(&str, &str)]) {
        for (name, meaning) in items {
            self.item(name, meaning);
        }
    }

    /// The options of a command under its own title, those with headings under these.
    fn options(&mut self, command: &clap::Command) {
        let mut headings: Vec<Option<&str>> = Vec::new();
        for argument in command.get_arguments() {
            if !headings.contains(&argument.get_help_heading()) {
                headings.push(argument.get_help_heading());
            }
        }
        if headings.is_empty() {
            return;
        }
        self.section(&format!("OPTIONS OF {}", command.get_name().to_uppercase()));
        for heading in headings {
            if let Some(heading) = heading {
                self.lines(|roff| {
                    roff.control("SS", [heading]);
                });
            }
            let of_heading = command
                .get_arguments()
                .filter(|it| it.get_help_heading() == heading);
            let mut alone = clap::Command::new("alone")
                .disable_help_flag(true)
                .args(of_heading.map(|it| it.clone().help_heading(None)));
            alone.build();
            let before = self.text.len();
            self.add(|text| Man::new(alone).render_options_section(text));
            let options = self.text.split_off(before).replacen(".SH OPTIONS\n", "", 1);
            self.text.push_str(&options);
        }
        if let Some(after) = command.get_after_help() {
            for line in after.to_string().lines() {
                self.paragraph(line);
            }
        }
    }
}

#[test]
fn the_manual_is_what_the_program_says() {
    super::example::assert_is("skyprobe.1", &page());
}
