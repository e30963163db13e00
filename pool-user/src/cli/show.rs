//! Views as tables, lines and JSON. Names are those of the registrar's admin JSON.

use dialtone_handlespace::Handle;
use dialtone_wire::{PeId, Policy, PolicyType, Transport};
use serde_json::{Map, Value, json};

use super::{columns, union};
use crate::select::ranking;
use crate::view::{Freshness, Member, View};

pub(super) fn json(view: &View, key: Option<&str>) -> Value {
    let mut object = Map::new();
    object.insert("handle".into(), view.handle.to_string().into());
    object.insert("policy".into(), policy_name(view.policy).into());
    let members = view.order.iter().filter_map(|pe_id| view.member(*pe_id));
    object.insert("elements".into(), members.map(element).collect());
    if let Some(key) = key {
        object
            .insert("ranking".into(), ranking(view, key.as_bytes()).into_iter().map(id).collect());
    }
    Value::Object(object)
}

pub(super) fn json_line(view: &View, time: &str) -> Value {
    let mut line = json(view, None);
    if let Value::Object(object) = &mut line {
        object.insert("time".into(), time.into());
        // What only a subscription can tell.
        object.insert("version".into(), view.version.into());
        object.insert("complete".into(), view.complete.into());
        object.insert("freshness".into(), freshness(view.freshness).into());
    }
    line
}

pub(super) fn table(view: &View, key: Option<&str>) -> String {
    let ids = match key {
        Some(key) => ranking(view, key.as_bytes()),
        None => view.order.to_vec(),
    };
    let mut rows = vec![["ELEMENT", "ADDRESS", "POLICY", "HOME"].map(String::from).to_vec()];
    for member in ids.into_iter().filter_map(|pe_id| view.member(pe_id)) {
        rows.push(vec![
            id(member.pe_id),
            address(member),
            values(&member.policy),
            format!("{:#010x}", member.home.0),
        ]);
    }
    let count = view.members.len();
    let order = match key {
        Some(key) => format!("as {key:?} prefers them"),
        None => policy_name(view.policy),
    };
    format!("{}: {count} {}, {order}\n{}", view.handle, elements(count), columns(&rows))
}

/// What a reader of [`line`] would notice.
pub(super) fn differ(a: &View, b: &View) -> bool {
    a.members != b.members
        || a.policy != b.policy
        || freshness(a.freshness) != freshness(b.freshness)
}

/// What changed between two views, on one line.
pub(super) fn line(former: Option<&View>, view: &View, time: &str) -> String {
    let count = view.members.len();
    let mut line =
        format!("{time} {} {} {count} {}", view.handle, freshness(view.freshness), elements(count));
    let unknown = View::unknown(view.handle.clone());
    let former = former.unwrap_or(&unknown);
    let ids = |view: &View| view.members.iter().map(|member| member.pe_id).collect::<Vec<_>>();
    for pe_id in union(ids(former).into_iter(), ids(view).into_iter()) {
        let change = match (former.member(pe_id), view.member(pe_id)) {
            (None, Some(new)) => format!(" +{}@{}", id(pe_id), address(new)),
            (Some(_), None) => format!(" -{}", id(pe_id)),
            (Some(old), Some(new)) if old.transport != new.transport => {
                format!(" ={}@{}", id(pe_id), address(new))
            }
            (Some(old), Some(new)) if old.policy != new.policy => {
                format!(" ~{} {}", id(pe_id), values(&new.policy))
            }
            (Some(old), Some(new)) if old.home != new.home => {
                format!(" >{} home {:#010x}", id(pe_id), new.home.0)
            }
            _ => continue,
        };
        line.push_str(&change);
    }
    line
}

fn element(member: &Member) -> Value {
    json!({
        "id": id(member.pe_id),
        "home": format!("{:#010x}", member.home.0),
        "transport": transport(&member.transport),
        "address": bare_address(member),
        "policy": policy_values(&member.policy),
        "life_seconds": member.life,
    })
}

fn id(pe_id: PeId) -> String {
    format!("{:#010x}", pe_id.0)
}

const fn elements(count: usize) -> &'static str {
    if count == 1 { "element" } else { "elements" }
}

const fn freshness(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Unknown => "unknown",
        Freshness::Fresh => "fresh",
        Freshness::Stale { .. } => "stale",
        Freshness::Absent => "absent",
    }
}

fn policy_name(policy: PolicyType) -> String {
    policy.name().map_or_else(|| policy.to_string(), |name| name.replace(' ', "-"))
}

fn policy_values(policy: &Policy<'_>) -> Map<String, Value> {
    let mut values = Map::new();
    match policy {
        Policy::LeastUsedDegradation { load, degradation }
        | Policy::PriorityLeastUsed { load, degradation } => {
            values.insert("load".into(), (*load).into());
            values.insert("degradation".into(), (*degradation).into());
        }
        Policy::LeastUsed { load } | Policy::RandomizedLeastUsed { load } => {
            values.insert("load".into(), (*load).into());
        }
        Policy::Priority { priority } => {
            values.insert("priority".into(), (*priority).into());
        }
        Policy::WeightedRandom { weight } | Policy::WeightedRoundRobin { weight } => {
            values.insert("weight".into(), (*weight).into());
        }
        Policy::Other { .. } | Policy::Random | Policy::RoundRobin => {}
    }
    values
}

/// `load 25 %` and the like; `-` when the policy has no values.
fn values(policy: &Policy<'_>) -> String {
    let named = policy_values(policy).into_iter().map(|(name, value)| {
        match (name.as_str(), value.as_u64()) {
            ("load" | "degradation", Some(part)) => {
                format!("{name} {} %", part * 100 / u64::from(u32::MAX))
            }
            _ => format!("{name} {value}"),
        }
    });
    let text = named.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".into() } else { text }
}

const fn transport(transport: &Transport<'_>) -> &'static str {
    match transport {
        Transport::Dccp { .. } => "dccp",
        Transport::Opaque(_) => "opaque",
        Transport::Sctp(_) => "sctp",
        Transport::Tcp { .. } => "tcp",
        Transport::Udp { .. } => "udp",
        Transport::UdpLite { .. } => "udp-lite",
    }
}

fn bare_address(member: &Member) -> String {
    match (&member.transport, member.addr()) {
        // Opaque bytes are shown as handles are: as text, or else as hexadecimal digits.
        (Transport::Opaque(data), _) => {
            Handle::new(data).map(|text| text.to_string()).unwrap_or_default()
        }
        (_, Some(addr)) => addr.to_string(),
        (_, None) => String::new(),
    }
}

fn address(member: &Member) -> String {
    format!("{}:{}", transport(&member.transport), bare_address(member))
}

#[cfg(test)]
mod tests {
    use dialtone_handlespace::Element;
    use dialtone_wire::ServerId;

    use super::*;

    fn member(pe_id: u32, load: u32) -> Member {
        Member::from(Element {
            pe_id: PeId(pe_id),
            home: ServerId(0xa),
            life: 30,
            encaps_port: None,
            transport: Transport::tcp("127.0.0.1:5060".parse().unwrap()),
            policy: Policy::LeastUsed { load },
            asap_transport: None,
        })
    }

    fn view(members: Vec<Member>) -> View {
        View {
            policy: PolicyType::LEAST_USED,
            order: members.iter().map(|member| member.pe_id).collect(),
            members: members.into(),
            freshness: Freshness::Fresh,
            ..View::unknown(Handle::new("sip-proxy").unwrap())
        }
    }

    #[test]
    fn a_table_for_people() {
        let text = table(&view(vec![member(1, u32::MAX / 4), member(0xabcd, 0)]), None);
        assert_eq!(
            text,
            "sip-proxy: 2 elements, least-used\n\
             ELEMENT     ADDRESS             POLICY     HOME\n\
             0x00000001  tcp:127.0.0.1:5060  load 24 %  0x0000000a\n\
             0x0000abcd  tcp:127.0.0.1:5060  load 0 %   0x0000000a\n"
        );
    }

    #[test]
    fn a_line_for_each_change() {
        let former = view(vec![member(1, 0), member(2, 0)]);
        let now = view(vec![member(2, u32::MAX), member(3, 0)]);
        assert_eq!(
            line(Some(&former), &now, "T"),
            "T sip-proxy fresh 2 elements -0x00000001 ~0x00000002 load 100 % +0x00000003@tcp:127.0.0.1:5060"
        );
        let mut turned = now.clone();
        turned.order = std::sync::Arc::new([PeId(3), PeId(2)]);
        assert!(!differ(&now, &turned));
    }

    #[test]
    fn json_for_scripts() {
        let value = json(&view(vec![member(1, 7)]), Some("key"));
        assert_eq!(value["elements"][0]["policy"]["load"], 7);
        assert_eq!(value["elements"][0]["address"], "127.0.0.1:5060");
        assert_eq!(value["ranking"][0], "0x00000001");
    }
}
