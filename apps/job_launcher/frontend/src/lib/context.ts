// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// What every page of someone signed in relies on: who it is, what is configured, and the push.
import { createContext, useContext, useSyncExternalStore } from "react";
import type { Connection, Push } from "./socket";
import type { Config, User } from "./types";

export interface Session {
  user: User;
  config: Config;
  push: Push;
}

export const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (session === null) throw new Error("this part of the page needs a session");
  return session;
}

export function useConnection(): Connection {
  const { push } = useSession();
  return useSyncExternalStore(push.watch, push.connection);
}

/** A tunable that is a time in milliseconds, as the server gave it. */
export function milliseconds(config: Config, name: string, fallback: number): number {
  const value = config.tunables[name];
  return typeof value === "number" && value > 0 ? value : fallback;
}

/** How often to ask for what would be pushed: never while the socket is up. */
export function usePolling(name: "status_poll_interval" | "log_poll_interval"): number | false {
  const { config } = useSession();
  return useConnection() === "down" ? milliseconds(config, name, 3000) : false;
}
