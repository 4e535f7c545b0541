// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";
import { BrowserRouter, Link, Route, Routes } from "react-router";
import { Failure, Loading, PageHead } from "./components/basics";
import { Layout } from "./components/Layout";
import { api, ApiError, onSignedOut, setCsrfToken } from "./lib/api";
import { SessionContext } from "./lib/context";
import { Push } from "./lib/socket";
import type { Config, Me, User } from "./lib/types";
import { Launcher } from "./pages/Launcher";
import { Ledger } from "./pages/Ledger";
import { Login } from "./pages/Login";
import { Logs } from "./pages/Logs";
import { Numbers } from "./pages/Numbers";
import { RunPage } from "./pages/Run";
import { Runs } from "./pages/Runs";
import { Settings } from "./pages/Settings";

/** Who is signed in; null for nobody, which is no error. */
async function whoami(signal: AbortSignal): Promise<Me | null> {
  try {
    const me = await api.me(signal);
    setCsrfToken(me.csrf_token);
    return me;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return null;
    throw error;
  }
}

export function App() {
  const client = useQueryClient();
  const me = useQuery({ queryKey: ["me"], queryFn: ({ signal }) => whoami(signal) });
  useEffect(() => {
    onSignedOut(() => client.setQueryData(["me"], null));
    return () => onSignedOut(() => undefined);
  }, [client]);
  if (me.isPending) return <main className="login"><Loading what="the launcher" /></main>;
  if (me.data === undefined) {
    return (
      <main className="login">
        <Failure what="The launcher can't be reached." error={me.error ?? new Error("No answer came.")} retry={() => void me.refetch()} />
      </main>
    );
  }
  return me.data === null ? <Login /> : <SignedIn key={me.data.user.name} user={me.data.user} />;
}

function SignedIn({ user }: { user: User }) {
  const client = useQueryClient();
  const config = useQuery({ queryKey: ["config"], queryFn: ({ signal }) => api.config(signal) });
  const [push, setPush] = useState<Push | null>(null);
  useEffect(() => {
    const opened = new Push(client);
    setPush(opened);
    opened.open();
    return () => {
      opened.close();
      setPush(null);
      // The next who signs in must see nothing of this one's.
      client.removeQueries({ predicate: (query) => query.queryKey[0] !== "me" });
    };
  }, [client]);
  if (config.data === undefined && config.error !== null) {
    return (
      <main className="login">
        <Failure what="The configuration can't be read." error={config.error} retry={() => void config.refetch()} />
      </main>
    );
  }
  if (config.data === undefined || push === null) return <main className="login"><Loading what="the configuration" /></main>;
  return <Pages user={user} config={config.data} push={push} />;
}

function Pages({ user, config, push }: { user: User; config: Config; push: Push }) {
  const session = useMemo(() => ({ user, config, push }), [user, config, push]);
  return (
    <SessionContext value={session}>
      <BrowserRouter>
        <Routes>
          <Route element={<Layout />}>
            <Route index element={<Launcher />} />
            <Route path="runs" element={<Runs />} />
            <Route path="runs/:id" element={<RunPage />} />
            <Route path="logs" element={<Logs />} />
            <Route path="logs/:id" element={<Logs />} />
            <Route path="numbers" element={<Numbers />} />
            <Route path="ledger" element={<Ledger />} />
            <Route path="settings" element={<Settings />} />
            <Route path="*" element={<Unknown />} />
          </Route>
        </Routes>
      </BrowserRouter>
    </SessionContext>
  );
}

function Unknown() {
  return <PageHead title="There is no such page"><Link to="/">Go to the launcher</Link></PageHead>;
}
