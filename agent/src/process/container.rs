//! Which container and pod a cgroup's path names. Pure.
//!
//! Every container runtime puts the container's id into the path, and kubelet the pod's UID:
//!
//! | who | driver | path |
//! |---|---|---|
//! | kubelet and any runtime | cgroupfs | `/kubepods/burstable/pod<uid>/<id>` |
//! | kubelet and containerd | systemd | `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope` |
//! | Docker | cgroupfs | `/docker/<id>` |
//! | Podman | systemd | `/machine.slice/libpod-<id>.scope/container` |
//!
//! and so on; the tests have more. Guaranteed pods have no class of service in their path. systemd's names have `_` in
//! place of the UID's dashes, because a dash means a parent slice there.
//!
//! Only complete ids in places where a runtime puts them count. What looks different is no container: a process
//! without a label is better than one with a wrong label.

use std::borrow::Cow;

use crate::workload::{ContainerId, PodUid};

/// What stands before the id in names of cgroups that hold a container, by runtime. Those of monitors, as in
/// `crio-conmon-<id>.scope`, are not among them: a monitor is not in the container.
const PREFIXES: [&str; 5] = [
    "cri-containerd",
    "crio",
    "docker", // also cri-dockerd
    "libpod", // Podman
    "nerdctl",
];

/// One container on a path. At least one of both is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The pod, if the path names it.
    pub pod: Option<PodUid>,
    /// The container; `None` for processes of a pod that are in none of its containers, as a monitor.
    pub container: Option<ContainerId>,
}

/// The containers that a cgroup's path passes through, outermost first: more than one where a container holds a
/// container runtime (kind, Docker in Docker).
#[must_use]
pub fn layers(path: &str) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut parent = Part::Other;
    // A cgroup namespace shows what is outside of it with `..`.
    for name in path.split('/').filter(|name| !matches!(*name, "" | "." | "..")) {
        let part = Part::parse(&unescape(name), &parent);
        match &part {
            Part::Pod(uid) => layers.push(Layer {
                pod: Some(uid.clone()),
                container: None,
            }),
            Part::Container(id) => match layers.last_mut() {
                // What is further down in a pod's cgroup was not put there by kubelet's runtime.
                Some(layer) if matches!(parent, Part::Pod(_)) => layer.container = Some(*id),
                _ => layers.push(Layer {
                    pod: None,
                    container: Some(*id),
                }),
            },
            Part::ContainerOf(uid, id) => layers.push(Layer {
                pod: Some(uid.clone()),
                container: Some(*id),
            }),
            Part::PodmanPods | Part::Other => {}
        }
        parent = part;
    }
    layers
}

/// The container that a node's own runtime made: the outermost on the path in which the node's process 1 is not too.
/// `node` has the containers of process 1; there are some where the node is itself a container (kind).
#[must_use]
pub fn outermost(path: &str, node: &[ContainerId]) -> Option<Layer> {
    layers(path)
        .into_iter()
        .find(|layer| layer.container.is_none_or(|id| !node.contains(&id)))
}

/// What the name of one cgroup says.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Pod(PodUid),
    Container(ContainerId),
    /// systemd's notation taken literally by a runtime that uses the driver cgroupfs: `<slice>:<prefix>:<id>`.
    ContainerOf(PodUid, ContainerId),
    /// Podman's parent of all, with the driver cgroupfs: a bare id below it is one of its pods.
    PodmanPods,
    Other,
}

impl Part {
    fn parse(name: &str, parent: &Self) -> Self {
        if let Some(uid) = pod(name) {
            return Self::Pod(uid);
        }
        if name == "libpod_parent" {
            return Self::PodmanPods;
        }
        if let Some((slice, unit)) = name.split_once(".slice:") {
            let id = unit
                .split_once(':')
                .and_then(|(prefix, id)| PREFIXES.contains(&prefix).then(|| id.parse().ok())?);
            return match (slice_pod(slice), id) {
                (Some(uid), Some(id)) => Self::ContainerOf(uid, id),
                (None, Some(id)) => Self::Container(id),
                (Some(uid), None) => Self::Pod(uid),
                (None, None) => Self::Other,
            };
        }
        let stem = name.strip_suffix(".scope");
        let prefixed = PREFIXES
            .iter()
            .find_map(|prefix| stem.unwrap_or(name).strip_prefix(prefix)?.strip_prefix('-'));
        match (prefixed, stem) {
            (Some(id), _) => id.parse().map_or(Self::Other, Self::Container),
            // A unit always has a prefix.
            (None, Some(_)) => Self::Other,
            (None, None) if *parent == Self::PodmanPods => Self::Other,
            (None, None) => name.parse().map_or(Self::Other, Self::Container),
        }
    }
}

/// The pod of `pod<uid>` and `…kubepods-…-pod<uid>.slice`.
fn pod(name: &str) -> Option<PodUid> {
    match name.strip_suffix(".slice") {
        Some(slice) => slice_pod(slice),
        None => uid(name.strip_prefix("pod")?),
    }
}

/// The pod of a slice, its name without `.slice`. Before `kubepods` may be kubelet's `--cgroup-root`.
fn slice_pod(slice: &str) -> Option<PodUid> {
    let at = slice.rfind("kubepods-")?;
    let (root, rest) = (&slice[..at], &slice[at + "kubepods-".len()..]);
    if !(root.is_empty() || root.ends_with('-')) {
        return None;
    }
    let rest = ["burstable-", "besteffort-"]
        .iter()
        .find_map(|class| rest.strip_prefix(class))
        .unwrap_or(rest);
    uid(&rest.strip_prefix("pod")?.replace('_', "-"))
}

/// A UUID with dashes where they belong, or the hash that kubelet makes of a static pod's manifest.
fn uid(text: &str) -> Option<PodUid> {
    let bytes = text.as_bytes();
    let is_dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let well_formed = match bytes.len() {
        32 => !bytes.contains(&b'-'),
        36 => bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| (*byte == b'-') == is_dash(at)),
        _ => false,
    };
    well_formed.then(|| text.parse().ok())?
}

/// Undoes systemd's escapes, `\x` and two hexadecimal digits (systemd.unit(5)).
fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains("\\x") {
        return Cow::Borrowed(name);
    }
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escaped = behind
            .strip_prefix(b"x")
            .filter(|_| *first == b'\\')
            .and_then(|digits| digits.split_at_checked(2));
        let byte = escaped.and_then(|(digits, behind)| {
            let digits = str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, behind))
        });
        let (byte, behind) = byte.unwrap_or((*first, behind));
        plain.push(byte);
        rest = behind;
    }
    String::from_utf8(plain).map_or(Cow::Borrowed(name), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const C1: &str = "3f2a9c0d6b1e48575c2d9a8b7e6f5041322314a5b6c7d8e9f00112233445566a";
    const C2: &str = "b77d4d0e9f8a4c3b2a1908f7e6d5c4b3a29180706f5e4d3c2b1a09f8e7d6c5b4";
    const UID: &str = "8a6f1d5a-0c3b-4e7d-9f21-6b5c4d3e2f10";
    /// The same in the names of systemd's slices.
    const UID_: &str = "8a6f1d5a_0c3b_4e7d_9f21_6b5c4d3e2f10";
    const OUTER: &str = "11112222-3333-4444-5555-666677778888";
    const HASH: &str = "9f1c0dbd5cb4d8a5d6e6ae9d0c9b2b57";

    /// `(pod, container)`; empty for none.
    fn layer((pod, container): (&str, &str)) -> Layer {
        Layer {
            pod: (!pod.is_empty()).then(|| pod.parse().unwrap()),
            container: (!container.is_empty()).then(|| container.parse().unwrap()),
        }
    }

    #[track_caller]
    fn check(path: &str, expected: &[(&str, &str)]) {
        let expected: Vec<Layer> = expected.iter().copied().map(layer).collect();
        assert_eq!(layers(path), expected, "{path}");
    }

    #[test]
    fn kubelet_with_cgroupfs() {
        let pod = [(UID, C1)];
        for class in ["", "/burstable", "/besteffort"] {
            // containerd, Docker
            check(&format!("/kubepods{class}/pod{UID}/{C1}"), &pod);
            check(&format!("/kubepods{class}/pod{UID}/crio-{C1}"), &pod);
            // kubelet --cgroup-root
            check(&format!("/runtime/kubepods{class}/pod{UID}/{C1}"), &pod);
        }
        check(&format!("/kubepods/burstable/pod{HASH}/{C1}"), &[(HASH, C1)]);
        check(&format!("/kubepods/burstable/pod{UID}"), &[(UID, "")]);
        // CRI-O's monitor
        check(
            &format!("/kubepods/burstable/pod{UID}/crio-conmon-{C1}"),
            &[(UID, "")],
        );
    }

    #[test]
    fn kubelet_with_systemd() {
        for (slice, class) in [
            (String::new(), ""),
            ("/kubepods-burstable.slice".to_owned(), "-burstable"),
            ("/kubepods-besteffort.slice".to_owned(), "-besteffort"),
        ] {
            for runtime in ["cri-containerd", "crio", "docker"] {
                for (name, uid) in [(UID_, UID), (HASH, HASH)] {
                    let pod = format!("/kubepods.slice{slice}/kubepods{class}-pod{name}.slice");
                    check(&format!("{pod}/{runtime}-{C1}.scope"), &[(uid, C1)]);
                }
            }
        }
        let pod = format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice");
        check(&pod, &[(UID, "")]);
        check(&format!("{pod}/crio-conmon-{C1}.scope"), &[(UID, "")]);
        // CRI-O gives what runs in the scope a cgroup of its own.
        check(&format!("{pod}/crio-{C1}.scope/container"), &[(UID, C1)]);
        // kubelet --cgroup-root=/node/pods
        let root = "/node.slice/node-pods.slice/node-pods-kubepods.slice";
        check(
            &format!("{root}/node-pods-kubepods-pod{UID_}.slice/cri-containerd-{C1}.scope"),
            &[(UID, C1)],
        );
    }

    #[test]
    fn kubelet_with_systemd_and_a_runtime_without() {
        let name = format!("kubepods-burstable-pod{UID_}.slice:cri-containerd:{C1}");
        check(&format!("/system.slice/containerd.service/{name}"), &[(UID, C1)]);
        check(&format!("/{name}"), &[(UID, C1)]);
        check(&format!("/system.slice:docker:{C1}"), &[("", C1)]);
        check(
            &format!("/kubepods-pod{UID_}.slice:crio-conmon:{C1}"),
            &[(UID, "")],
        );
    }

    #[test]
    fn runtimes_without_kubernetes() {
        for path in [
            format!("/docker/{C1}"),
            format!("/system.slice/docker-{C1}.scope"),
            format!("/actions_job/{C1}"), // docker run --cgroup-parent
            format!("/ecs/5e3f0c3d2b1a49f8a7b6c5d4e3f20119/{C1}"),
            format!("/default/{C1}"), // nerdctl
            format!("/system.slice/nerdctl-{C1}.scope"),
            format!("/machine.slice/libpod-{C1}.scope"),
            format!("/machine.slice/libpod-{C1}.scope/container"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{C1}.scope/container"),
            format!("/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{C1}.scope"),
            format!("/machine.slice/machine-libpod_pod_{C2}.slice/libpod-{C1}.scope"),
            format!("/libpod_parent/libpod-{C1}"),
            format!("/libpod_parent/{C2}/libpod-{C1}"), // a pod of Podman
        ] {
            check(&path, &[("", C1)]);
        }
    }

    #[test]
    fn cgroups_inside_a_container_are_the_container() {
        for inside in ["init.scope", "system.slice/nginx.service", "nginx", "a/b/c"] {
            check(&format!("/docker/{C1}/{inside}"), &[("", C1)]);
            check(&format!("/kubepods/pod{UID}/{C1}/{inside}"), &[(UID, C1)]);
            let scope = format!("kubepods-pod{UID_}.slice/cri-containerd-{C1}.scope");
            check(&format!("/kubepods.slice/{scope}/{inside}"), &[(UID, C1)]);
        }
    }

    #[test]
    fn nested_runtimes_have_a_layer_each() {
        // kind: the node is a container of Docker.
        check(
            &format!("/docker/{C2}/kubelet/kubepods/burstable/pod{UID}/{C1}"),
            &[("", C2), (UID, C1)],
        );
        let kubelet = "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice";
        let pod = format!("{kubelet}/kubelet-kubepods-burstable-pod{UID_}.slice/cri-containerd-{C1}.scope");
        check(
            &format!("/system.slice/docker-{C2}.scope/{pod}"),
            &[("", C2), (UID, C1)],
        );
        check(&format!("/{pod}"), &[(UID, C1)]);
        // Docker in Docker, and in a pod
        check(&format!("/docker/{C2}/docker/{C1}"), &[("", C2), ("", C1)]);
        check(
            &format!("/kubepods/pod{UID}/{C2}/docker/{C1}"),
            &[(UID, C2), ("", C1)],
        );
        // kind in a pod
        check(
            &format!("/kubepods/pod{OUTER}/{C2}/kubelet/kubepods/pod{UID}/{C1}"),
            &[(OUTER, C2), (UID, C1)],
        );
    }

    #[test]
    fn the_nodes_own_container_is_not_on_the_node() {
        let node = |path: &str| -> Vec<ContainerId> {
            layers(path)
                .into_iter()
                .filter_map(|layer| layer.container)
                .collect()
        };
        let inner = Some(layer((UID, C1)));
        let kind = format!("/docker/{C2}/kubelet/kubepods/burstable/pod{UID}/{C1}");
        assert_eq!(
            outermost(&kind, &node(&format!("/docker/{C2}/init.scope"))),
            inner
        );
        assert_eq!(outermost(&kind, &node("/init.scope")), Some(layer(("", C2))));
        let in_pod = format!("/kubepods/pod{OUTER}/{C2}/kubelet/kubepods/pod{UID}/{C1}");
        let outer = format!("/kubepods/pod{OUTER}/{C2}");
        assert_eq!(outermost(&in_pod, &node(&outer)), inner);
        assert_eq!(outermost(&outer, &node(&outer)), None);
        let docker_in_pod = format!("/kubepods/pod{UID}/{C1}/docker/{C2}");
        assert_eq!(outermost(&docker_in_pod, &[]), inner);
        assert_eq!(outermost("/system.slice/nginx.service", &[]), None);
    }

    #[test]
    fn another_cgroup_namespace_shows_what_is_left_of_the_path() {
        check(
            &format!("/../../kubepods-burstable-pod{UID_}.slice/cri-containerd-{C1}.scope"),
            &[(UID, C1)],
        );
        check(&format!("/../cri-containerd-{C1}.scope"), &[("", C1)]);
        check(&format!("/../../pod{UID}/{C1}"), &[(UID, C1)]);
        check(&format!("/../{C1}"), &[("", C1)]);
        check("/../../../../init.scope", &[]);
    }

    #[test]
    fn escaped_names_are_read_as_systemd_means_them() {
        let dashed = UID.replace('-', "\\x2d");
        check(
            &format!("/kubepods.slice/kubepods-pod{dashed}.slice/docker-{C1}.scope"),
            &[(UID, C1)],
        );
        check(&format!("/system.slice/docker\\x2d{C1}.scope"), &[("", C1)]);
        for name in ["a\\x2db", "\\x", "\\x2", "\\xzz", "\\", "\\x2d\\", "\\xc3\\xa9"] {
            check(&format!("/{name}"), &[]);
        }
        assert_eq!(unescape("a\\x2db\\x5cx"), "a-b\\x");
        assert_eq!(unescape("\\xff"), "\\xff", "not UTF-8");
    }

    #[test]
    fn what_is_no_container_has_no_label() {
        let short = &C1[1..];
        let upper = C1.to_uppercase();
        for path in [
            String::new(),
            "/".to_owned(),
            "/init.scope".to_owned(),
            "/system.slice/nginx.service".to_owned(),
            "/user.slice/user-0.slice/session-1.scope".to_owned(),
            "/kubepods/burstable".to_owned(),
            "/kubepods.slice/kubepods-burstable.slice".to_owned(),
            "/system.slice/kubelet.service".to_owned(),
            "/lxc/web".to_owned(),
            "/docker/buildkit/ip5j3m3ikpkhcj6hz7u8rkh0s".to_owned(),
            format!("/docker/{short}"),
            format!("/docker/{C1}0"),
            format!("/docker/{upper}"),
            format!("/system.slice/{C1}.scope"),
            format!("/system.slice/{C1}.service"),
            format!("/system.slice/docker-{short}.scope"),
            format!("/system.slice/docker-{C1}.service"),
            format!("/machine.slice/libpod-conmon-{C1}.scope"),
            format!("/system.slice/crio-conmon-{C1}.scope"),
            format!("/libpod_parent/{C2}"),
            format!("/machine.slice/machine-libpod_pod_{C2}.slice"),
            format!("/pod-{UID}"),
            format!("/kubepods/pod{}", &UID[1..]),
            format!("/kubepods/pod{}", UID.to_uppercase()),
            "/kubepods/pod--------------------------------8a6f".to_owned(),
            format!("/mykubepods-pod{UID_}.slice"),
            format!("/kubepods-other-pod{UID_}.slice"),
            format!("/kubepods-burstable-{UID_}.slice"),
        ] {
            check(&path, &[]);
        }
        // Not where kubelet's runtime puts the pod's containers.
        check(
            &format!("/kubepods/pod{UID}/something/{C1}"),
            &[(UID, ""), ("", C1)],
        );
        // The pod is certain, the container is not.
        check(&format!("/kubepods/pod{UID}/{short}"), &[(UID, "")]);
    }

    /// How kubelet and the runtimes name a pod's container; `{uid}`, `{_uid}` and `{id}` are filled in.
    const LAYOUTS: [&str; 6] = [
        "/kubepods/pod{uid}/{id}",
        "/kubepods/besteffort/pod{uid}/crio-{id}",
        "/kubepods.slice/kubepods-pod{_uid}.slice/cri-containerd-{id}.scope",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/docker-{id}.scope",
        "/system.slice/containerd.service/kubepods-besteffort-pod{_uid}.slice:cri-containerd:{id}",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{_uid}.slice/crio-{id}.scope",
    ];

    proptest! {
        #[test]
        fn every_pod_is_found_in_every_layout(
            uid in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}",
            id in "[0-9a-f]{64}",
            layout in prop::sample::select(LAYOUTS.as_slice()),
            above in "(/[a-z]{1,8}\\.slice){0,2}",
            below in "(/[a-z.]{1,12}){0,2}",
        ) {
            let path = layout
                .replace("{uid}", &uid)
                .replace("{_uid}", &uid.replace('-', "_"))
                .replace("{id}", &id);
            let path = format!("{above}{path}{below}");
            prop_assert_eq!(layers(&path), [layer((&uid, &id))], "{}", path);
        }

        /// One letter less, more or another makes a different id or none, never this one.
        #[test]
        fn a_damaged_id_is_another_or_none(
            layout in prop::sample::select(LAYOUTS.as_slice()),
            at in 0..64_usize,
            damage in "[^/]{0,2}",
        ) {
            prop_assume!(damage != C1[at..=at]);
            let damaged = format!("{}{damage}{}", &C1[..at], &C1[at + 1..]);
            let path = layout.replace("{uid}", UID).replace("{_uid}", UID_).replace("{id}", &damaged);
            let found = layers(&path);
            prop_assert!(found.iter().all(|layer| layer.container != C1.parse().ok()), "{}", path);
            prop_assert!(found.iter().all(|layer| layer.pod == UID.parse().ok()), "{}", path);
        }

        #[test]
        fn any_text_is_read_without_inventing_ids(path in "(/|[ -~]|[0-9a-f]{30,70}|pod|docker-|\\.scope|\\.slice|\\PC){0,12}") {
            for layer in layers(&path) {
                prop_assert!(layer.pod.is_some() || layer.container.is_some());
                let plain = path.split('/').map(unescape).collect::<Vec<_>>().join("/");
                if let Some(id) = layer.container {
                    prop_assert!(plain.contains(&id.to_string()));
                }
                if let Some(uid) = layer.pod {
                    prop_assert!(plain.replace('_', "-").contains(uid.as_str()));
                }
            }
        }
    }
}
