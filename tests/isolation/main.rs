//! Attacks: what an action may try against the worker's cache, against its
//! siblings, against the farm and against the host, each tried for real in an
//! action on a farm of `hayloft up`.
//!
//! One module for each attack, as `docs/threat-model.md` numbers them. Each runs
//! twice: on root's farm (inputs are hardlinks of the cache, each slot a user of
//! its own) and on a plain user's (inputs are copies, everything at one user).
//! Each has three parts:
//!
//! - the attack in an action, by the `probe` program, and what came of each thing
//!   it tried;
//! - the seal: no file of the worker's cache has changed, and the next action
//!   with the same inputs finds them as they were. On copies an attack on inputs
//!   may succeed for the action itself; the seal decides;
//! - a control: the same probe on the host, against the like that is not
//!   protected, succeeds. An attack that cannot succeed anywhere shows nothing.

mod arena;
mod attack;
mod attacks;
mod comparison;
mod inputs;
mod launches;
mod layers;
mod lone_runner;
mod missing;
mod seal;
mod table;

mod attack_01_open_input_for_writing;
mod attack_02_change_mode_of_input;
mod attack_03_change_metadata_of_input;
mod attack_04_write_input_otherwise;
mod attack_05_link_input_into_output;
mod attack_06_replace_input;
mod attack_07_add_to_input_folder;
mod attack_08_read_blob_of_another_action;
mod attack_09_read_sibling;
mod attack_10_overwrite_running_program;
mod attack_11_exhaust_links;
mod attack_12_kill;
mod attack_13_trace;
mod attack_14_leave_daemon;
mod attack_15_keep_output_open;
mod attack_16_fork;
mod attack_17_leave_zombies;
mod attack_18_outlive_timeout;
mod attack_19_outlive_runner;
mod attack_21_look_at_processes;
mod attack_22_write_to_runner_program;
mod attack_23_change_kernel_settings;
mod attack_24_setuid;
mod attack_25_take_ids;
mod attack_26_nest_namespaces;
mod attack_27_mount;
mod attack_28_leave_root;
mod attack_29_kernel_interfaces;
mod attack_30_io_uring;
mod attack_31_keyrings;
mod attack_32_open_by_handle;
mod attack_33_type_into_terminal;
mod attack_34_devices;
mod attack_35_personality;
mod attack_36_other_entries;
mod attack_37_dump_core;
mod attack_38_connect;
mod attack_39_send_outside;
mod attack_40_socket_families;
mod attack_41_abstract_sockets;
mod attack_42_path_sockets;
mod attack_43_shared_memory;
mod attack_44_inherited_descriptors;
mod attack_45_recognise_machine;
mod attack_46_set_clock;
mod attack_48_output_links;
mod attack_51_monstrous_outputs;
mod attack_52_fill;
mod attack_53_forge_result;
