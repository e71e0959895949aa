//! How much memory the control group of this process may use: the least limit on the way up to what it can see.

use super::files::Files;

/// The least memory limit in bytes and the file that sets it, of cgroup version 2 or 1; `None` when nothing limits.
pub(super) fn memory_limit(files: &Files) -> Option<(u64, String)> {
    let groups = files.text("/proc/self/cgroup")?;
    let mounts = files.text("/proc/self/mountinfo")?;
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let limits = groups.lines().filter_map(|line| {
        // hierarchy:controllers:path, and version 2 has no controllers there.
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
        let (version, name) = match controllers {
            "" => (2, "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => (1, "memory.limit_in_bytes"),
            _ => return None,
        };
        let mount = mounts.iter().find(|mount| mount.version == version)?;
        least(files, mount, path, name)
    });
    limits.min()
}

/// Where a hierarchy that may limit memory is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    version: u8,
    /// The group that is seen at `point`: in a container not always the topmost one.
    root: &'a str,
    point: &'a str,
}

impl<'a> Mount<'a> {
    /// A line of mountinfo, proc_pid_mountinfo(5).
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let (kind, options) = (file_system.next()?, file_system.nth(1)?);
        let version = match kind {
            "cgroup2" => 2,
            "cgroup" if options.split(',').any(|option| option == "memory") => 1,
            _ => return None,
        };
        Some(Self { version, root, point })
    }
}

/// The least limit of the group at `path` and of those above it.
fn least(files: &Files, mount: &Mount<'_>, path: &str, name: &str) -> Option<(u64, String)> {
    let below = path.strip_prefix(mount.root).unwrap_or(path).trim_matches('/');
    let names: Vec<&str> = below.split('/').filter(|name| !name.is_empty()).collect();
    let limits = (0..=names.len()).rev().filter_map(|depth| {
        let mut file = mount.point.trim_end_matches('/').to_owned();
        for name in names[..depth].iter().chain(&[name]) {
            file += "/";
            file += name;
        }
        // "max", or in version 1 the largest number of whole pages, is no limit.
        let bytes = files.number(&file).filter(|&bytes| bytes < NO_LIMIT)?;
        Some((bytes, file))
    });
    limits.min()
}

/// From here on a number of version 1 means that there is no limit.
const NO_LIMIT: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use super::super::files::made_up;
    use super::*;

    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let (_directory, files) = made_up(&[
            ("/proc/self/cgroup", "0::/system.slice/corelane.service\n"),
            ("/proc/self/mountinfo", V2),
            ("/sys/fs/cgroup/system.slice/corelane.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "268435456\n"),
        ]);
        let file = "/sys/fs/cgroup/system.slice/memory.max";
        assert_eq!(memory_limit(&files), Some((268_435_456, file.to_owned())));
    }

    #[test]
    fn a_container_of_version_1_sees_its_own_group_at_the_mount() {
        let (_directory, files) = made_up(&[
            ("/proc/self/cgroup", "5:cpu:/docker/abc\n4:hugetlb,memory:/docker/abc\n0::/\n"),
            ("/proc/self/mountinfo", V1),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n"),
        ]);
        let file = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        assert_eq!(memory_limit(&files), Some((134_217_728, file.to_owned())));
    }

    #[test]
    fn no_limit_and_no_files_are_no_limit() {
        let (_directory, files) = made_up(&[
            ("/proc/self/cgroup", "4:memory:/docker/abc/deeper\n0::/\n"),
            ("/proc/self/mountinfo", V1),
            ("/sys/fs/cgroup/memory/deeper/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(memory_limit(&files), None);
        let (_directory, files) = made_up(&[]);
        assert_eq!(memory_limit(&files), None);
    }
}
