// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { Card, Field } from "../components/basics";
import { api, ApiError, setCsrfToken } from "../lib/api";
import { useTitle } from "../lib/hooks";

export function Login() {
  useTitle("Log in");
  const client = useQueryClient();
  const abort = useRef<AbortController | null>(null);
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [missing, setMissing] = useState(false);
  useEffect(() => () => abort.current?.abort(), []);

  const login = useMutation({
    mutationFn: () => {
      abort.current = new AbortController();
      return api.login(name, password, abort.current.signal);
    },
    onSuccess: async (session) => {
      setCsrfToken(session.csrf_token);
      await client.fetchQuery({ queryKey: ["me"], queryFn: ({ signal }) => api.me(signal), staleTime: 0 });
    },
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setMissing(name === "" || password === "");
    if (name !== "" && password !== "" && !login.isPending) login.mutate();
  };
  const fields = login.error instanceof ApiError ? login.error.fields() : new Map<string, string>();
  return (
    <main id="main" className="login">
      <h1 className="brand"><img src="/icon.svg" alt="" width="32" height="32" />Job launcher</h1>
      <Card title="Log in" busy={login.isPending ? "Logging in …" : null}>
        <form onSubmit={submit} noValidate>
          {login.error !== null && <p className="error" role="alert">{login.error.message}</p>}
          <Field label="Name" error={missing && name === "" ? "Enter your name." : fields.get("name")}>
            {(attributes) => (
              <input {...attributes} type="text" autoComplete="username" autoCapitalize="none" spellCheck={false} value={name} onChange={(event) => setName(event.target.value)} />
            )}
          </Field>
          <Field label="Password" error={missing && password === "" ? "Enter your password." : fields.get("password")}>
            {(attributes) => (
              <input {...attributes} type="password" autoComplete="current-password" value={password} onChange={(event) => setPassword(event.target.value)} />
            )}
          </Field>
          <button type="submit" className="primary" disabled={login.isPending}>Log in</button>
        </form>
        <p className="help">Accounts are made by whoever runs this launcher, with <code>job-launcher user add</code>.</p>
      </Card>
    </main>
  );
}
