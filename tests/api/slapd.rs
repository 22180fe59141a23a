//! A real slapd on free ports in a temporary directory, with certificates of an authority of its own. It ends
//! with the test.
#![expect(clippy::format_push_string, reason = "files are read more easily so")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PROGRAM: &str = "/usr/sbin/slapd";
pub const BASE: &str = "dc=example,dc=org";
pub const SERVICE: &str = "cn=steppe,dc=example,dc=org";
pub const SERVICE_PASSWORD: &str = "service secret";
/// Of everybody in the directory.
pub const PASSWORD: &str = "correct horse";

/// What Windows and `FreeIPA` have, and slapd's own schemas lack.
const SCHEMA: &str = "
attributetype ( 1.3.6.1.4.1.55555.1.1 NAME 'sAMAccountName' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.55555.1.2 NAME 'sAMAccountType' EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 )
attributetype ( 1.3.6.1.4.1.55555.1.3 NAME 'userAccountControl' EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 )
attributetype ( 1.3.6.1.4.1.55555.1.4 NAME 'userPrincipalName' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.55555.1.5 NAME 'nsAccountLock' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.55555.1.6 NAME 'memberOf' EQUALITY distinguishedNameMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.12 )
attributetype ( 1.3.6.1.4.1.55555.1.7 NAME 'department' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.55555.2.1 NAME 'account2' SUP top AUXILIARY MAY ( sAMAccountName $ sAMAccountType $
  userAccountControl $ userPrincipalName $ nsAccountLock $ memberOf $ department ) )
";

/// A running server.
pub struct Slapd {
    child: Child,
    folder: TempDir,
    /// Goes over to TLS where it has certificates.
    pub ldap: String,
    /// Speaks TLS.
    pub ldaps: String,
}

impl Slapd {
    /// With certificates; none where slapd is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(true)
    }

    /// With or without certificates.
    #[expect(clippy::print_stderr, reason = "a test that is left out says so")]
    pub fn start_with(tls: bool) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            eprintln!("left out: there is no {PROGRAM}; scripts/test installs it");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let mut settings = String::new();
        for schema in ["core", "cosine", "inetorgperson", "nis"] {
            settings += &format!("include /etc/ldap/schema/{schema}.schema\n");
        }
        settings += SCHEMA;
        // As many directories do: a name without a password is let in as nobody in particular.
        settings += "allow bind_anon_dn\n";
        settings += "modulepath /usr/lib/ldap\nmoduleload back_mdb\n";
        if tls {
            authority(place, "ca");
            certificate(place);
            let file = |name: &str| place.join(name).display().to_string();
            settings += &format!("TLSCACertificateFile {}\n", file("ca.pem"));
            settings +=
                &format!("TLSCertificateFile {}\nTLSCertificateKeyFile {}\n", file("server.pem"), file("server.key"));
        }
        settings +=
            &format!("database mdb\nsuffix \"{BASE}\"\nmaxsize 10485760\ndirectory {}\n", place.join("db").display());
        settings += &format!(
            "access to attrs=userPassword by dn.exact=\"cn=admin,{BASE}\" manage by anonymous auth by * none\naccess to dn.subtree=\"ou=secret,{BASE}\" by dn.exact=\"{SERVICE}\" read by * none\naccess to * by dn.exact=\"cn=admin,{BASE}\" manage by * read\n"
        );
        fs::create_dir(place.join("db")).unwrap();
        fs::write(place.join("slapd.conf"), settings).unwrap();
        fs::write(place.join("people.ldif"), people()).unwrap();
        run(Command::new("/usr/sbin/slapadd")
            .args(["-q", "-f"])
            .arg(place.join("slapd.conf"))
            .arg("-l")
            .arg(place.join("people.ldif")));
        let (ldap, ldaps) = (address("ldap"), address("ldaps"));
        let urls = if tls { format!("{ldap} {ldaps}") } else { ldap.clone() };
        let child = Command::new(PROGRAM)
            .args(["-d", "0", "-h", &urls, "-f"])
            .arg(place.join("slapd.conf"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, folder, ldap, ldaps };
        server.wait();
        Some(server)
    }

    /// Whoever signed its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Another authority, which signed nothing here.
    pub fn other_ca_file(&self) -> PathBuf {
        authority(self.folder.path(), "other")
    }

    /// Takes connections and says nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Ends.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Changes an entry: LDIF of `ldapmodify`, as the administrator, while it runs.
    pub fn change(&self, ldif: &str) {
        let file = self.folder.path().join("change.ldif");
        fs::write(&file, ldif).unwrap();
        let socket = self.ldap.as_str();
        let administrator = format!("cn=admin,{BASE}");
        run(Command::new("ldapmodify")
            .args(["-x", "-H", socket, "-D", &administrator, "-w", PASSWORD, "-f"])
            .arg(file));
    }

    fn signal(&self, name: &str) {
        run(Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]));
    }

    fn wait(&self) {
        let place = self.ldap.trim_start_matches("ldap://").to_owned();
        let end = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&place).is_err() {
            assert!(Instant::now() < end, "slapd does not listen at {place}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn address(scheme: &str) -> String {
    format!("{scheme}://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn openssl(place: &Path, arguments: &str) {
    run(Command::new("openssl").current_dir(place).args(arguments.split_whitespace()));
}

/// `NAME.pem`, a certificate that signs others, and its key `NAME.key`.
fn authority(place: &Path, name: &str) -> PathBuf {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(place, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"));
    place.join(format!("{name}.pem"))
}

/// `server.pem` for 127.0.0.1 and for no name.
fn certificate(place: &Path) {
    fs::write(place.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(place, &format!("req {key} -keyout server.key -out server.csr -subj /CN=server"));
    openssl(
        place,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    );
}

/// An entry with `cn`, `sn`, a password and further lines.
fn person(rdn: &str, place: &str, lines: &str) -> String {
    format!(
        "dn: {rdn},{place}\nobjectClass: inetOrgPerson\nobjectClass: account2\ncn: somebody\nsn: somebody\nuserPassword: {PASSWORD}\n{lines}\n\n"
    )
}

fn group(name: &str, members: &[&str]) -> String {
    let members: Vec<String> = members.iter().map(|member| format!("member: {member},{BASE}\n")).collect();
    let members = members.concat();
    format!("dn: cn={name},ou=groups,{BASE}\nobjectClass: groupOfNames\n{members}\n")
}

fn people() -> String {
    let mut ldif = format!("dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n");
    for unit in ["people", "others", "groups", "secret", "windows"] {
        ldif += &format!("dn: ou={unit},{BASE}\nobjectClass: organizationalUnit\nou: {unit}\n\n");
    }
    for (name, password) in [("steppe", SERVICE_PASSWORD), ("admin", PASSWORD)] {
        ldif +=
            &format!("dn: cn={name},{BASE}\nobjectClass: person\ncn: {name}\nsn: {name}\nuserPassword: {password}\n\n");
    }
    let (here, there) = (format!("ou=people,{BASE}"), format!("ou=others,{BASE}"));
    ldif += &person("uid=ann", &here, "department: Sales");
    ldif += &person("uid=bob", &here, "department: IT");
    ldif += &person("uid=carol", &format!("ou=secret,{BASE}"), "");
    // мария
    ldif += &person("cn=Maria", &here, "uid:: 0LzQsNGA0LjRjw==");
    ldif += &person("uid=old", &here, "employeeType: left");
    ldif += &person("uid=twin", &here, "");
    ldif += &person("uid=twin", &there, "");
    ldif += &person("cn=Smith\\, (John)", &here, "uid: smith");
    ldif += &person("uid=*)(uid=*", &there, "");
    let windows = format!("ou=windows,{BASE}");
    let account = |name: &str, control: u32| {
        format!(
            "sAMAccountType: 805306368\nsAMAccountName: {name}\nuserPrincipalName: {name}@example.org\nuserAccountControl: {control}"
        )
    };
    ldif += &person("cn=Win", &windows, &account("Win", 512));
    ldif += &person("cn=Lost", &windows, &account("Lost", 514));
    let member_of =
        format!("nsAccountLock: FALSE\nmemberOf: cn=Office,ou=groups,{BASE}\nmemberOf: cn=admins,ou=elsewhere,{BASE}");
    ldif += &person("uid=ipa", &there, &member_of);
    ldif += &person("uid=locked", &there, "nsAccountLock: TRUE");
    // heads -> it -> staff, and a ring: east -> west -> east.
    ldif += &group("heads", &["uid=bob,ou=people", "cn=Win,ou=windows"]);
    ldif += &group("it", &["cn=heads,ou=groups"]);
    ldif += &group("staff", &["cn=it,ou=groups", "cn=west,ou=groups"]);
    ldif += &group("east", &["uid=ann,ou=people", "cn=west,ou=groups"]);
    ldif += &group("west", &["cn=east,ou=groups"]);
    ldif += &group("Sales\\, EMEA (all)", &["cn=Smith\\, (John),ou=people"]);
    ldif += &format!("dn: cn=unix,ou=groups,{BASE}\nobjectClass: posixGroup\ngidNumber: 100\nmemberUid: ann\n\n");
    ldif
}
